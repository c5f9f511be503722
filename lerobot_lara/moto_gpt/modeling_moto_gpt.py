"""`moto_gpt` as a LeRobot policy: batches in, losses and action chunks out.

Legend: B batch, T latent steps, L latent tokens of a step, V codes, K actions of a step, A action dim.
"""

import math
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from lerobot_lara.backbones.encoders import build_image_encoder, build_text_encoder
from lerobot_lara.backbones.instruction_memory import InstructionMemory
from lerobot_lara.batch.checks import Periodic
from lerobot_lara.batch.frame_pairs import present_batch
from lerobot_lara.batch.keys import ACTION, LATENT_CODES, LATENT_CODES_IS_PAD
from lerobot_lara.batch.observation import ActionChunk, Observation, require_cameras, step_valid
from lerobot_lara.lam.latent_action_model import LatentActionModel
from lerobot_lara.lam.metrics import valid_mean
from lerobot_lara.moto_gpt.configuration_moto_gpt import MotoGPTConfig
from lerobot_lara.moto_gpt.decoding import decode_latents
from lerobot_lara.moto_gpt.losses import action_losses, latent_errors, latent_loss
from lerobot_lara.moto_gpt.model import Conditions, MotoGPT
from lerobot_lara.moto_gpt.tokenizer import infer_codes
from lerobot_lara.policy.base import LaraPolicyBase
from lerobot_lara.policy.checkpoint_files import Checkpoint
from lerobot_lara.training.augmentation import shift_cameras
from lerobot_lara.training.finite import require_finite, require_finite_losses
from lerobot_lara.training.log import read_numbers
from lerobot_lara.training.memory import class_names
from lerobot_lara.training.randomness import own_randomness

# Parts of the network that pre-training on video alone does not have.
OF_ACTIONS = ("action_query", "chunk_queries", "action_mlp.", "arm_head.", "gripper_head.", "embed_state.")


class MotoGPTPolicy(LaraPolicyBase):
    """Predicts the codes of the next latent actions, and actions.

    Batch keys: those of `LaraDiTPolicy`; in training also the codes, `lerobot_lara.batch.keys.LATENT_CODES`, or with
    `lam_path` images (B, T + 1, 3, H, W) that are `frame_gap` apart.

    Args:
        config: The configuration, with the sizes of the codes.
        dataset_meta: Passed by LeRobot's training.
        **kwargs: Further arguments of LeRobot's training, which are not used.
    """

    config_class = MotoGPTConfig
    name = "moto_gpt"

    def __init__(self, config: MotoGPTConfig, *, dataset_meta: Any = None, **kwargs: Any) -> None:
        super().__init__(config, dataset_meta=dataset_meta)
        config.validate_features()
        self.config = config
        dtype = getattr(torch, config.dtype)
        self.image_encoder = build_image_encoder(
            config.vision_encoder,
            image_size=config.image_size,
            width=config.vision_encoder_width,
            layer=config.vision_encoder_layer,
            frozen=config.freeze_vision_encoder,
            normalize=True,
            dtype=dtype,
            field="vision_encoder",
        )
        self.text_encoder = (
            None
            if config.text_encoder is None
            else build_text_encoder(config.text_encoder, frozen=True, field="text_encoder")
        )
        layout = config.batch_layout
        self.model = MotoGPT(
            language_width=None if self.text_encoder is None else self.text_encoder.width,
            patch_width=self.image_encoder.width,
            num_patches=len(layout.cameras) * self.image_encoder.num_tokens,
            summary_width=None,
            state_width=layout.state_dim or None,
            width=config.width,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            latent_steps=config.latent_steps,
            num_latent_tokens=config.num_latent_tokens or 1,
            codebook_size=config.codebook_size or 1,
            codebook_per_token=config.codebook_per_token,
            actions_per_step=config.num_actions_per_step,
            action_dim=layout.action_dim,
            gripper_index=config.gripper_index,
            step_embeddings=config.step_embeddings,
            latent_position_embeddings=config.latent_position_embeddings and config.predict_latents,
            predict_latents=config.predict_latents,
            dropout=config.dropout,
        )
        if config.gradient_checkpointing and not self.only_acts:
            self.model.backbone.gradient_checkpointing_enable()
        # Not a submodule: it is neither trained nor saved.
        self._lam: tuple[LatentActionModel, ...] = ()
        if config.codes_from == "lam" and not self.only_acts:
            assert config.lam_path is not None
            with own_randomness(0, torch.device("cpu")):
                self._lam = (LatentActionModel.from_pretrained(config.lam_path).requires_grad_(False),)
        self._instructions = InstructionMemory()
        self._value_check = Periodic()
        self.reset()

    def arrange_weights(self, checkpoint: Checkpoint) -> AbstractContextManager[None]:
        """Action heads start anew where the checkpoint has none, as after pre-training on video alone."""
        if checkpoint.config.get("predict_actions", True):
            return super().arrange_weights(checkpoint)
        return self._new_action_heads()

    @contextmanager
    def _new_action_heads(self) -> Iterator[None]:
        def keep(module: Any, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
            for name, value in self.model.state_dict().items():
                if name.startswith(OF_ACTIONS):
                    state.setdefault(prefix + name, value)

        hook = self.model.register_load_state_dict_pre_hook(keep)
        try:
            yield
        finally:
            hook.remove()

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """The training objective on one batch (keys in the class docstring).

        Returns:
            The loss, and every term and metric by name: `latent_loss` in nats per token, `latent_accuracy`,
            `arm_loss`, `gripper_loss`.

        Raises:
            ValueError: The batch lacks a camera, the codes or the frames that they are inferred from.
        """
        config = self.config
        if self.training:
            batch = shift_cameras(batch, config.image_features, config.random_shift)
        latent_ids, latent_valid = self._codes(batch)
        if config.observation_delta_indices is not None:
            batch = present_batch(batch, config.input_features)
        conditions = self._conditions(batch, check_values=not self.training or self._value_check.due())
        visible = None
        if latent_valid is not None:
            visible = (
                torch.rand(latent_valid.shape, device=latent_valid.device) >= config.latent_mask_probability
            )
        logits, predicted = self.model(
            conditions, latent_ids, latent_valid=latent_valid, latent_visible=visible
        )
        loss, log = torch.zeros((), device=conditions.patches.device), {}
        if logits is not None and latent_ids is not None and latent_valid is not None:
            log["latent_loss"] = latent_loss(logits, latent_ids, latent_valid)
            loss = loss + config.latent_loss_weight * log["latent_loss"]
            hits = (logits.argmax(-1) == latent_ids).float().mean(-1)  # (B, T)
            log["latent_accuracy"] = valid_mean(hits.flatten(), latent_valid.flatten())
            log |= self._log_by_dataset(latent_errors(logits, latent_ids), latent_valid, batch)
        if predicted is not None:
            chunk = ActionChunk.from_batch(batch, config.batch_layout)
            steps = (config.latent_steps, -1)
            terms = action_losses(
                predicted,
                chunk.actions.unflatten(1, steps),
                chunk.valid.expand_as(chunk.actions).unflatten(1, steps),
                gripper_index=config.gripper_index,
                gripper_loss=config.gripper_loss,
            )
            loss = loss + config.action_loss_weight * terms["arm_loss"] + terms.get("gripper_loss", 0.0)
            log |= terms
        numbers = read_numbers(log)
        require_finite_losses(numbers, batch)
        return loss, numbers

    @torch.no_grad()
    def predict_action_chunk(self, batch: dict[str, Tensor], **kwargs: Any) -> Tensor:
        """Predicts a chunk of normalized actions.

        Args:
            batch: Observation as in the class docstring.
            **kwargs: Not used.

        Returns:
            (B, T * K, A).

        Raises:
            ValueError: The policy predicts no actions, or one is not finite.
        """
        config = self.config
        if not config.predict_actions:
            raise ValueError(
                "This moto_gpt was pre-trained on video and has no actions yet. Train it on demonstrations: "
                "--policy.path=<this checkpoint> --policy.predict_actions=true."
            )
        self.eval()
        conditions = self._conditions(batch)
        ids, visible = None, None
        if config.predict_latents:
            ids, visible = self._latents_to_act_with(conditions)
        _, predicted = self.model(conditions, ids, latent_visible=visible)
        assert predicted is not None
        if config.gripper_loss == "bce":
            # Open or closed is -1 or 1 in normalized actions.
            index = config.gripper_index
            predicted[..., index] = torch.where(predicted[..., index] > 0, 1.0, -1.0)
        actions = predicted.flatten(1, 2).float()
        require_finite({"action": actions}, "Predicted actions", "Check the observation and the checkpoint.")
        return actions

    def _latents_to_act_with(self, conditions: Conditions) -> tuple[Tensor, Tensor]:
        """Codes (B, T, L), and (B, T) bool, the steps that the actions see."""
        config, size = self.config, len(conditions.patches)
        shape, device = (size, config.latent_steps), conditions.patches.device
        if not config.act_with_latents:
            ids = torch.zeros(*shape, self.model.num_latent_tokens, dtype=torch.int64, device=device)
            return ids, torch.zeros(shape, dtype=torch.bool, device=device)
        # What lies beyond the actions that are executed is not needed.
        steps = math.ceil(config.n_action_steps / config.num_actions_per_step)
        return decode_latents(self.model, conditions, steps=steps), torch.ones(
            shape, dtype=torch.bool, device=device
        )

    @torch.no_grad()
    def predict_latents(self, batch: dict[str, Tensor]) -> Tensor:
        """Predicts the codes (B, T, L) of the next latent actions."""
        self.eval()
        return decode_latents(self.model, self._conditions(batch))

    @torch.no_grad()
    def select_action(self, batch: dict[str, Tensor], **kwargs: Any) -> Tensor:
        """The next action (B, A); predicts a new chunk every `n_action_steps` calls."""
        if not self._action_queue:
            chunk = self.predict_action_chunk(batch, **kwargs)
            self._action_queue.extend(chunk[:, : self.config.n_action_steps].unbind(1))
        return self._action_queue.popleft()

    def reset(self) -> None:
        """Forgets the rest of the current chunk; called when an episode starts."""
        self._action_queue: deque[Tensor] = deque()

    def get_optim_params(self) -> Any:
        """The trained parameters; frozen encoders are not among them."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    @property
    def _no_split_modules(self) -> list[str]:
        """What FSDP shards block by block."""
        return class_names(list(self.model.backbone.h))

    def _codes(self, batch: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """Codes (B, T, L) int64, and (B, T) bool, the steps that exist; None for a policy without latent tokens."""
        config = self.config
        if not config.predict_latents:
            return None, None
        if config.codes_from == "lam":
            camera = config.lam_camera or next(iter(config.image_features))
            require_cameras(batch, [camera])
            frames = batch[camera]
            if frames.ndim != 5 or frames.shape[1] != config.latent_steps + 1:
                raise ValueError(
                    f"`{camera}` has shape {tuple(frames.shape)}; it must be (B, {config.latent_steps + 1}, 3, H, W), "
                    "frames that are `frame_gap` apart, as in the batches of `lerobot-train`."
                )
            (lam,) = self._lam
            is_pad = batch.get(f"{camera}_is_pad")
            if is_pad is None:
                is_pad = torch.zeros(frames.shape[:2], dtype=torch.bool, device=frames.device)
            return infer_codes(lam.to(frames.device), frames), ~is_pad.bool()[:, 1:] & ~is_pad.bool()[:, :1]
        if LATENT_CODES not in batch:
            raise ValueError(
                f"The batch lacks `{LATENT_CODES}`, which `lerobot-train` adds to the samples of labeled datasets. "
                "Pass --policy.lam_labels, or `labels` in the mixture file."
            )
        return batch[LATENT_CODES], ~batch[LATENT_CODES_IS_PAD].bool()

    def _conditions(self, batch: dict[str, Tensor], *, check_values: bool = True) -> Conditions:
        observation = Observation.from_batch(batch, self.config.batch_layout, check_values=check_values)
        tokens = torch.cat([self.image_encoder(image) for image in observation.images], dim=1)
        patch_mask = observation.image_valid
        if patch_mask is not None:
            patch_mask = patch_mask.repeat_interleave(self.image_encoder.num_tokens, dim=1)
        language, language_mask = None, None
        if self.text_encoder is not None:
            if observation.language_tokens is None or observation.language_mask is None:
                raise ValueError(
                    "The batch has no tokenized instruction, which `text_encoder` needs. Pass it through the policy's "
                    "preprocessor, or train with --policy.text_encoder=null."
                )
            language, language_mask = self._language(observation.language_tokens, observation.language_mask)
        labeled: Any = True  # LeRobot's preprocessor hands on actions that are None
        if batch.get(ACTION) is not None:
            labeled = step_valid(batch).any(dim=1)
        return Conditions(
            language=language,
            language_mask=language_mask,
            patches=tokens.to(self.model.embed_patch.weight.dtype),
            patch_mask=patch_mask,
            state=observation.state,
            state_mask=observation.state_valid & labeled,
        )

    def _language(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of the instructions (B, S, width), each encoded once and padded on the right, and (B, S) bool."""
        rows = self._instructions(input_ids, attention_mask, self._encode_instructions)
        lengths = torch.tensor([len(row) for row in rows], device=input_ids.device)
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (B, S, width)
        return tokens, torch.arange(tokens.shape[1], device=input_ids.device) < lengths[:, None]

    @torch.no_grad()
    def _encode_instructions(self, input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
        assert self.text_encoder is not None
        tokens = self.text_encoder(input_ids, attention_mask).float()
        return [row[mask] for row, mask in zip(tokens, attention_mask, strict=True)]

    def _log_by_dataset(self, errors: Tensor, valid: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        weights = valid.float()
        of_samples = (errors.detach() * weights).sum(1) / weights.sum(1).clamp(min=1)
        index = Observation.from_batch(batch, self.config.batch_layout, check_values=False).dataset_index
        if index is None:
            return {}
        return self.mixture.means("latent_loss", of_samples, valid.any(1), index, remember=self.training)
