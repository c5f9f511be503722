"""The latent action model (LAM): what happened between two frames, learned from video alone (paper §3.1).

    z = IDM(E(o_t), E(o_{t+K}))      latent action, (L, C)
    q = Quantize(z)
    o'_{t+K} = FDM(o_t, q)           predicted frame and/or encoder features
    loss = sum of weighted reconstruction, feature, perceptual and quantizer losses

Shapes: B batch, K frame gap, L latent-action tokens, C latent width, h prediction size.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lerobot_lara.backbones.encoders import build_image_encoder
from lerobot_lara.backbones.images import resize
from lerobot_lara.batch.checks import Periodic, check_images
from lerobot_lara.lam import artifact
from lerobot_lara.lam.forward_dynamics import ForwardDynamicsModel
from lerobot_lara.lam.frame_encoder import check_frames, encode_frames
from lerobot_lara.lam.inverse_dynamics import InverseDynamicsModel
from lerobot_lara.lam.losses import masked_mse, pair_error, reconstruction_loss
from lerobot_lara.lam.metrics import CodeUsage, effective_rank, psnr, valid_mean
from lerobot_lara.lam.perceptual import PerceptualLoss
from lerobot_lara.lam.quantizer import build_quantizer
from lerobot_lara.lam.settings import LatentActionSettings
from lerobot_lara.training.distributed import masked_mean

# Tokens of the current and of the future frames, (B, P, D) each.
FrameTokens = tuple[Tensor, Tensor]


@dataclass
class LatentActionOutput:
    """What a latent action model finds in a batch of frame pairs.

    Attributes:
        latent_action: (B, L, C) float32, continuous, before quantization: what policies align to.
        quantized_latent_action: (B, L, C), what forward dynamics sees.
        code_indices: (B, L) int64, or None if latents are continuous.
        prediction: (B, 3, h, h) predicted future frame, about in [0, 1]; None if only features are predicted
            or nothing was (`encode`).
        losses: Unweighted named scalars, those in use: reconstruction_loss, feature_loss, perceptual_loss,
            quantizer_loss.
        loss: Their weighted sum; 0, with a gradient of 0, when no pair is valid. None from `encode`.
        metrics: Scalars for logs; see `LatentActionModel.forward`.
        pair_error: (B,) mean squared error of each pair's prediction, valid or not, of frames if they are predicted
            and else of features; without a gradient. None from `encode`.
    """

    latent_action: Tensor
    quantized_latent_action: Tensor
    code_indices: Tensor | None
    prediction: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)
    loss: Tensor | None = None
    metrics: dict[str, Tensor] = field(default_factory=dict)
    pair_error: Tensor | None = None


class LatentActionModel(nn.Module):
    """Frame encoder, inverse dynamics, quantizer and forward dynamics with their objective.

    Build it with `from_config` or `from_pretrained`.

    Args:
        settings: All hyperparameters.
        frame_encoder: Maps (N, 3, H, W) in [0, 1] to tokens (N, P, D), with attributes `num_tokens`, `width`
            and `frozen`; None builds `settings.frame_encoder`.

    Raises:
        ValueError: If the frame encoder cannot be loaded, or its features would be the target although it is trained.
    """

    def __init__(self, settings: LatentActionSettings, frame_encoder: Any = None) -> None:
        super().__init__()
        s = self.settings = settings
        self.num_latent_tokens, self.latent_dim, self.frame_gap = (
            s.num_latent_tokens,
            s.latent_dim,
            s.frame_gap,
        )
        self.frame_encoder = frame_encoder or build_image_encoder(
            s.frame_encoder,
            image_size=s.image_size,
            width=s.frame_encoder_width,
            layer=s.frame_encoder_layer,
            frozen=s.freeze_frame_encoder,
            normalize=s.normalize_frames,
            field="frame_encoder",
        )
        self.predicts_features = s.feature_loss_weight > 0
        if self.predicts_features and not self.frame_encoder.frozen:
            raise ValueError(
                f"`feature_loss_weight` is {s.feature_loss_weight}, but `frame_encoder` {s.frame_encoder!r} is "
                "trained, so that its features could collapse to a constant. Use a pretrained encoder with "
                "`freeze_frame_encoder`."
            )
        transformer: dict[str, Any] = {"mlp_ratio": s.mlp_ratio, "layer_norm_eps": s.layer_norm_eps}
        latent: dict[str, Any] = {"num_latent_tokens": s.num_latent_tokens, "latent_dim": s.latent_dim}
        self.inverse_dynamics = InverseDynamicsModel(
            feature_width=self.frame_encoder.width,
            num_frame_tokens=self.frame_encoder.num_tokens,
            width=s.idm_width,
            num_layers=s.idm_num_layers,
            num_heads=s.idm_num_heads,
            shared_frame_type=s.shared_frame_type,
            projection=s.latent_projection,
            normalize_latent=s.normalize_latent,
            **latent,
            **transformer,
        )
        self.quantizer = build_quantizer(
            s.quantizer,
            latent_dim=s.latent_dim,
            noise=s.latent_noise,
            codebook_size=s.codebook_size,
            codebook_update=s.codebook_update,
            codebook_decay=s.codebook_decay,
            codebook_kmeans_init=s.codebook_kmeans_init,
            codebook_restart_threshold=s.codebook_restart_threshold,
            commitment_weight=s.commitment_loss_weight,
            codebook_weight=s.codebook_loss_weight,
            fsq_levels=s.fsq_levels,
        )
        self.forward_dynamics = ForwardDynamicsModel(
            image_size=s.image_size,
            patch_size=s.fdm_patch_size,
            prediction_size=s.prediction_size,
            width=s.fdm_width,
            num_layers=s.fdm_num_layers,
            num_heads=s.fdm_num_heads,
            projection=s.latent_projection,
            fusion=s.latent_fusion,
            residual=s.residual_prediction,
            predict_pixels=s.reconstruction_loss_weight > 0,
            num_feature_tokens=self.frame_encoder.num_tokens if self.predicts_features else 0,
            feature_width=self.frame_encoder.width,
            **latent,
            **transformer,
        )
        self.perceptual = PerceptualLoss(s.perceptual_weights) if s.perceptual_loss_weight > 0 else None
        codebook_size = self.quantizer.codebook_size
        self.code_usage = CodeUsage(codebook_size) if codebook_size is not None else None
        self._range_check = Periodic()

    @classmethod
    def from_config(cls, **kwargs: Any) -> "LatentActionModel":
        """Builds a model from the fields of `LatentActionSettings`, which have the defaults.

        Raises:
            ValueError: For a field that does not exist or an impossible value.
        """
        return cls(LatentActionSettings.from_kwargs(**kwargs))

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo_id: str | Path,
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        **download: Any,
    ) -> "LatentActionModel":
        """Loads a `lara_lam` policy directory, local or from the Hub, in eval mode on the CPU.

        Args:
            path_or_repo_id: Local directory or Hub id.
            revision: Branch, tag or commit on the Hub.
            subfolder: Folder within.
            **download: Further arguments of `hf_hub_download`, such as `token` and `cache_dir`.

        Raises:
            ValueError: If it is missing, not a latent action model, damaged, or has unknown fields.
        """
        settings, weights, header = artifact.read(
            path_or_repo_id, revision=revision, subfolder=subfolder, **download
        )
        try:
            model = cls.from_config(**settings)
        except ValueError as error:
            raise ValueError(f"{header.file.parent / artifact.CONFIG_FILE}: {error}") from error
        header.check_types({artifact.PREFIX + key: value for key, value in model.state_dict().items()})
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"Corrupted checkpoint: {header.file} does not fit its config.json. {reason}"
            ) from error
        return model.eval()

    def save_pretrained(
        self,
        directory: str | Path,
        *,
        state_dict: dict[str, Tensor] | None = None,
        settings: LatentActionSettings | None = None,
    ) -> None:
        """Writes a `lara_lam` policy directory (config.json, model.safetensors).

        Args:
            directory: Created if needed; files of these names are replaced.
            state_dict: To write instead of this model's own, for example one gathered from several processes.
            settings: To write instead of this model's own.
        """
        artifact.write(
            directory,
            asdict(settings or self.settings),
            self.state_dict() if state_dict is None else state_dict,
        )

    @property
    def settings_sha256(self) -> str:
        """SHA-256 of the settings, which with the weights decide the latent actions."""
        return hashlib.sha256(json.dumps(asdict(self.settings), sort_keys=True).encode()).hexdigest()

    @property
    def networks(self) -> list[nn.Module]:
        """The trained networks."""
        return [self.inverse_dynamics, self.forward_dynamics]

    @property
    def blocks(self) -> list[nn.Module]:
        """Their transformer blocks."""
        return [*self.inverse_dynamics.transformer.blocks, *self.forward_dynamics.transformer.blocks]

    def encode(self, frames: Tensor | None, *, frame_tokens: FrameTokens | None = None) -> LatentActionOutput:
        """Infers latent actions, without noise or codebook updates; deterministic in eval mode.

        Args:
            frames: (B, 2, 3, H, W) RGB in [0, 1], any size: o_t and o_{t+K}. Not looked at with `frame_tokens`.
            frame_tokens: Tokens of both frames, of `frame_encoder`, where they are known already; the frames then were
                checked before.

        Returns:
            Output with the latent action, its quantized form and codes only.

        Raises:
            ValueError: If the frames have another shape or range.
        """
        if frame_tokens is None:
            assert frames is not None
            frame_tokens = self._encode_frames(frames)
        latent_action = self.inverse_dynamics(*frame_tokens)
        quantized, code_indices, _ = self.quantizer(latent_action)
        return LatentActionOutput(latent_action, quantized, code_indices)

    def no_motion(self, current: Tensor) -> Tensor:
        """The latent action of the pairs (o_t, o_t), which can only speak of o_t.

        Args:
            current: (B, P, D) tokens of o_t, of the frame encoder.

        Returns:
            (B, L, C) float32.
        """
        return self.inverse_dynamics(current, current)

    def decode(self, frame: Tensor, latent_action: Tensor) -> Tensor:
        """Predicts what a latent action does to a frame.

        Args:
            frame: (B, 3, H, W) RGB in [0, 1].
            latent_action: Quantized latent action (B, L, C), of `encode` or `indices_to_latent`; a continuous
                one is its own.

        Returns:
            (B, 3, h, h), about in [0, 1].

        Raises:
            ValueError: If the model predicts features only, or the frame has another shape or range.
        """
        if self.forward_dynamics.pixel_head is None:
            raise ValueError("`reconstruction_loss_weight` is 0: this model predicts features, no frames.")
        check_images(frame, "frame")
        features = self._features(self.frame_encoder(frame)) if self.predicts_features else None
        return self.forward_dynamics(frame, latent_action, features)[0]

    def indices_to_latent(self, code_indices: Tensor) -> Tensor:
        """Looks up codes (B, L) as quantized latents (B, L, C) for `decode`.

        Raises:
            ValueError: If latents are continuous.
        """
        return self.quantizer.indices_to_latent(code_indices)

    def forward(
        self, frames: Tensor, valid: Tensor | None = None, *, frame_tokens: FrameTokens | None = None
    ) -> LatentActionOutput:
        """Encodes, predicts and scores frame pairs; in training mode also moves an EMA codebook.

        Args:
            frames: (B, 2, 3, H, W) RGB in [0, 1], any size: o_t and o_{t+K}.
            valid: (B,) bool, False for pairs that cross the end of an episode; they enter no loss, metric or
                codebook. None is all True.
            frame_tokens: `encode_frames(frame_encoder, frames)`, where it is known already.

        Returns:
            Everything in `LatentActionOutput`. Its metrics: `psnr` of the prediction and `copy_psnr` of the
            current frame in its place (dB, at prediction size); `copy_feature_loss`, the feature loss of the
            current features; `latent_std`, `effective_rank` of the latents in the batch;
            `codebook_perplexity` and `live_codes`, in training over the last 100 to 200 batches. All are 0
            when no pair is valid.

        Raises:
            ValueError: If the frames have another shape or range.
        """
        current_tokens, future_tokens = frame_tokens or self._encode_frames(
            frames, check_values=not self.training or self._range_check.due()
        )
        current, future = frames.unbind(1)
        latent_action = self.inverse_dynamics(current_tokens, future_tokens)
        quantized, code_indices, quantizer_loss = self.quantizer(latent_action, valid, update=self.training)
        current_features, future_features = self._features(current_tokens), self._features(future_tokens)
        prediction, features = self.forward_dynamics(current, quantized, current_features)
        current, target = (
            resize(frame, self.settings.prediction_size).float() for frame in (current, future)
        )

        losses: dict[str, Tensor] = {}
        if prediction is not None:
            losses["reconstruction_loss"] = reconstruction_loss(
                prediction, current, target, valid, change_weight=self.settings.change_weight
            )
        if features is not None and future_features is not None:
            losses["feature_loss"] = masked_mse(features, future_features, valid)
        if self.perceptual is not None:
            losses["perceptual_loss"] = masked_mean(self.perceptual(prediction, target), valid)
        if quantizer_loss is not None:
            losses["quantizer_loss"] = quantizer_loss
        loss = torch.stack([getattr(self.settings, f"{k}_weight") * v for k, v in losses.items()]).sum()

        output = LatentActionOutput(latent_action, quantized, code_indices, prediction, losses, loss)
        output.metrics = self._metrics(output, current, target, current_features, future_features, valid)
        if prediction is not None:
            output.pair_error = pair_error(prediction, target)
        elif features is not None and future_features is not None:
            output.pair_error = pair_error(features, future_features)
        return output

    @torch.no_grad()
    def shuffled_psnr(self, frames: Tensor, valid: Tensor | None = None) -> float:
        """PSNR of the prediction when each pair gets another pair's latent action.

        A model that uses its latent action predicts better with the right one: `psnr` above this. For a
        constant latent action both are equal.

        Args:
            frames: (B, 2, 3, H, W) RGB in [0, 1], of different moments.
            valid: (B,) bool mask; None is all True.

        Raises:
            ValueError: With fewer than two valid pairs, or frames of another shape or range.
        """
        frames = frames if valid is None else frames[valid]
        if len(frames) < 2:
            raise ValueError(f"`frames` holds {len(frames)} valid pair(s); shuffling needs at least 2.")
        # Half a batch away, since neighbors are often of the same moment.
        latent = self.encode(frames).quantized_latent_action.roll(len(frames) // 2, dims=0)
        current, future = frames.unbind(1)
        return psnr(self.decode(current, latent), resize(future, self.settings.prediction_size)).item()

    def _encode_frames(self, frames: Tensor, *, check_values: bool = True) -> FrameTokens:
        check_frames(frames, values=check_values)
        return encode_frames(self.frame_encoder, frames)

    def _features(self, tokens: Tensor) -> Tensor | None:
        """Encoder tokens at unit scale, as target and input of feature prediction."""
        return F.layer_norm(tokens.float(), tokens.shape[-1:]) if self.predicts_features else None

    @torch.no_grad()
    def _metrics(
        self,
        output: LatentActionOutput,
        current: Tensor,
        target: Tensor,
        current_features: Tensor | None,
        future_features: Tensor | None,
        valid: Tensor | None,
    ) -> dict[str, Tensor]:
        metrics: dict[str, Tensor] = {}
        if output.prediction is not None:
            metrics["psnr"] = psnr(output.prediction, target, valid)
            metrics["copy_psnr"] = psnr(current, target, valid)
        if current_features is not None and future_features is not None:
            metrics["copy_feature_loss"] = valid_mean(pair_error(current_features, future_features), valid)
        latent = output.latent_action
        metrics["latent_std"] = valid_mean(
            (latent - valid_mean(latent, valid)).square().flatten(1).mean(1), valid
        ).sqrt()
        metrics["effective_rank"] = effective_rank(latent, valid)
        if output.code_indices is not None and self.code_usage is not None:
            usage = self.code_usage(output.code_indices, valid)
            metrics["codebook_perplexity"], metrics["live_codes"] = usage
        if valid is None:
            return metrics
        # Of no pair at all, an error of 0 would read as a perfect prediction.
        return {name: torch.where(valid.any(), value, 0) for name, value in metrics.items()}
