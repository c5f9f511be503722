"""Latent action alignment for any policy that has action tokens (paper §3; design: one mixin, many bases).

`class LaraPolicy(LatentAlignmentMixin, LaraDiTPolicy)` adds to its base the latent action model (LAM), the
alignment head and the joint objective

    L = L_flow + alignment_loss_weight * L_align(P(h), z) + lam_loss_weight * L_lam

and leaves inference alone. A base provides `alignment_blocks`, `alignment_width`,
`action_token_states(hidden_states)`, `action_token_valid(batch)`, `augment(batch)` and
`compute_flow_loss(batch)`.

On disk a checkpoint is the base's own, plus `lam/` (what `lam_path` and `LatentActionModel.from_pretrained`
read) and `alignment.safetensors`; inference opens neither.
"""

import copy
import logging
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lerobot_lara.acceleration import accelerate, class_names
from lerobot_lara.alignment.diagnostics import alignment_diagnostics
from lerobot_lara.alignment.objective import LatentAlignment
from lerobot_lara.alignment.tap import HiddenStateTap
from lerobot_lara.batch_keys import DATASET_INDEX, IMAGE_TOKENS
from lerobot_lara.checkpoint_files import checkpoint_file, read_config
from lerobot_lara.data.frame_gap import check_frame_gap
from lerobot_lara.frame_pairs import frame_pairs
from lerobot_lara.lam.frame_encoder import check_frames, encode_frames
from lerobot_lara.lam.latent_action_model import FrameTokens, LatentActionModel

logger = logging.getLogger(__name__)

LAM_FOLDER = "lam"
ALIGNMENT_FILE = "alignment.safetensors"
LAM_STATE = "lam."
ALIGNMENT_STATE = ("alignment.", "lam_target.")

# For the type checker: whatever policy follows the mixin in the class statement.
BasePolicy: Any = object


class LatentAlignmentMixin(BasePolicy):
    """Put before the base policy; see the module docstring.

    Args:
        config: A configuration with `LatentAlignmentConfig`'s fields.
        attach_lam: Load the LAM at once. `from_pretrained` does so only when it is given a dataset, that is
            for training; a policy that only acts never loads one.
        dataset_meta: Passed by LeRobot's training; its episode lengths are checked against `frame_gap`.
        **kwargs: The base's.
    """

    def __init__(
        self, config: Any, *, attach_lam: bool = True, dataset_meta: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(config, dataset_meta=dataset_meta, **kwargs)
        blocks = self.alignment_blocks
        self._tap = HiddenStateTap(blocks[config.resolve_alignment_layer(len(blocks)) - 1])
        self._checkpoint: tuple[str, str | None] | None = None
        self.lam: LatentActionModel | None = None
        self.lam_target: AveragedModel | None = None
        self._shares_encoder = False
        self.alignment: LatentAlignment | None = None
        if dataset_meta is not None:
            check_frame_gap(dataset_meta.episodes["length"], config.frame_gap)
        if attach_lam:
            self.attach_lam()

    @classmethod
    def from_pretrained(cls, pretrained_name_or_path: str | Path, **kwargs: Any) -> Any:
        """LeRobot's `from_pretrained`; loads the LAM too when `dataset_meta` is given (training)."""
        training = kwargs.get("dataset_meta") is not None
        policy = super().from_pretrained(pretrained_name_or_path, attach_lam=False, **kwargs)
        policy._checkpoint = (str(pretrained_name_or_path), kwargs.get("revision"))
        if training:
            policy.attach_lam()
        return policy

    def attach_lam(self) -> None:
        """Loads the LAM and the alignment head, so that `forward` can train.

        The LAM is the checkpoint's own aligned copy, unless `lam_path` was changed since it was written.

        Raises:
            ValueError: `lam_path` is missing, is no LAM, or its frame gap or latent width do not fit.
        """
        config = self.config
        state: dict[str, Tensor] = {}
        recorded = self._recorded_lam_path()
        if recorded is not None and _same_place(recorded, config.lam_path):
            assert self._checkpoint is not None
            path, revision = self._checkpoint
            lam = LatentActionModel.from_pretrained(path, revision=revision, subfolder=LAM_FOLDER)
            state = self._read_alignment_file()
        elif config.lam_path is None:
            raise ValueError(
                "`lam_path` is missing: LARA aligns the policy with a latent action model. Train one with "
                "`lerobot-train --policy.type=lara_lam ...` and pass its folder or Hub id as --policy.lam_path."
            )
        else:
            logger.info("Aligning with the latent action model %s", config.lam_path)
            if recorded is not None:
                logger.warning(
                    "The checkpoint's own aligned LAM (from %s) and its alignment head are replaced by a new alignment "
                    "with %s, because `lam_path` was changed.",
                    recorded,
                    config.lam_path,
                )
            lam = LatentActionModel.from_pretrained(config.lam_path)
        latent_width = lam.num_latent_tokens * lam.latent_dim
        self._check_lam(lam.frame_gap, latent_width, recorded)
        alignment = LatentAlignment(
            hidden_width=self.alignment_width,
            latent_width=latent_width,
            head=config.alignment_head,
            pooling=config.alignment_pooling,
            centring=config.alignment_centring,
            loss=config.alignment_loss,
            temperature=config.alignment_temperature,
        )
        encoder = getattr(self, "shared_image_encoder", None)
        if encoder is not None and encoder.source == lam.frame_encoder.source:
            self._shares_encoder = True
            logger.info("Policy and LAM have the same frozen image encoder: %s runs once.", encoder.source[0])
            lam.frame_encoder = encoder
        device = next(self.parameters()).device
        self.lam = lam.to(device).requires_grad_(not config.freeze_lam)
        self.alignment = alignment.to(device)
        if config.alignment_target == "ema" and not config.freeze_lam:
            self.lam_target = _slow_copy(self.lam, config.lam_ema_decay)
        accelerate(
            networks=self.lam.networks,
            blocks=self.lam.blocks,
            compile_model=config.compile_model,
            gradient_checkpointing=config.gradient_checkpointing,
        )
        self._load_alignment_state(state)
        self.train(self.training)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """The joint objective.

        Args:
            batch: The base's batch, with a time axis of two frames, `frame_gap` apart, after the batch
                axis of every observation, and `<camera>_is_pad` (B, 2).

        Returns:
            The loss, and every term and diagnostic by name.
        """
        if self.lam is None or self.alignment is None:
            raise ValueError(
                "This policy was loaded to act, without its LAM. Call `attach_lam()` to train it."
            )
        config = self.config
        batch = self.augment(batch)
        camera = config.lam_camera or next(iter(config.image_features))
        frames, pair_valid = frame_pairs(batch, camera)
        check_frames(frames)
        present, frame_tokens = self._present(batch), None
        if self._shares_encoder:
            frame_tokens = encode_frames(self.lam.frame_encoder, frames)
            present[IMAGE_TOKENS + camera] = frame_tokens[0]
        group = batch[DATASET_INDEX].reshape(-1) if DATASET_INDEX in batch else None
        with self._tap:
            flow_loss, log = self.compute_flow_loss(present)
        latent_action, lam_loss, lam_log = self._latent_action(frames, frame_tokens, pair_valid, group)
        alignment_loss, predicted, target = self.alignment(
            self.action_token_states(self._tap.take()),
            latent_action,
            token_valid=self.action_token_valid(present),
            pair_valid=pair_valid,
            group=group,
        )
        if group is not None and pair_valid is not None:
            group = group[pair_valid]
        loss = flow_loss + config.alignment_loss_weight * alignment_loss + config.lam_loss_weight * lam_loss
        log |= {"alignment_loss": alignment_loss.item()}
        log |= alignment_diagnostics(predicted.detach(), target.detach(), group) | lam_log
        return loss, log

    def _latent_action(
        self,
        frames: Tensor,
        frame_tokens: FrameTokens | None,
        pair_valid: Tensor | None,
        group: Tensor | None,
    ) -> tuple[Tensor, Tensor | float, dict[str, float]]:
        """The alignment's target (B, L, C), the LAM's loss, and its terms for the log."""
        assert self.lam is not None and self.alignment is not None
        config = self.config
        if config.freeze_lam:
            with torch.no_grad():
                return self._target(self.lam, frames, frame_tokens), 0.0, {}
        lam_tokens = frame_tokens or encode_frames(self.lam.frame_encoder, frames)
        output = self.lam(frames, valid=pair_valid, frame_tokens=lam_tokens)
        terms = {name: loss.item() for name, loss in output.losses.items()} | output.metrics
        log = {"lam_loss": output.loss.item()} | {f"lam_{name}": value for name, value in terms.items()}
        log |= self.dataset_means(
            "lam_prediction_error", output.pair_error, pair_valid, group, remember=self.training
        )
        if self.lam_target is not None:
            slow_lam = cast(LatentActionModel, self.lam_target.module)
            with torch.no_grad():
                return self._target(slow_lam, frames, frame_tokens), output.loss, log
        latent_action = self._relative(self.lam, output.latent_action, lam_tokens)
        if config.alignment_target == "stop" or self.alignment.num_updates < config.lam_warmup_steps:
            latent_action = latent_action.detach()
        return latent_action, output.loss, log

    def _target(self, lam: LatentActionModel, frames: Tensor, frame_tokens: FrameTokens | None) -> Tensor:
        frame_tokens = frame_tokens or encode_frames(lam.frame_encoder, frames)
        return self._relative(lam, lam.encode(frames, frame_tokens=frame_tokens).latent_action, frame_tokens)

    def _relative(self, lam: LatentActionModel, latent_action: Tensor, frame_tokens: FrameTokens) -> Tensor:
        return (
            latent_action - lam.no_motion(frame_tokens[0])
            if self.config.alignment_relative
            else latent_action
        )

    @property
    def _no_split_modules(self) -> list[str]:
        """Also the LAM's blocks, which FSDP shards too."""
        return [*super()._no_split_modules, *(class_names(self.lam.blocks) if self.lam is not None else [])]

    def update(self) -> None:
        """Moves the slow copy of the LAM; LeRobot calls this after every optimizer step.

        Raises:
            ValueError: FSDP has sharded the LAM, so that there is no whole to copy.
        """
        if self.lam is not None and self.lam_target is not None:
            if any(isinstance(module, FullyShardedDataParallel) for module in self.lam.modules()):
                raise ValueError(
                    "`alignment_target` is 'ema', whose slow copy FSDP cannot shard. Train with DDP, or with "
                    "--policy.alignment_target=stop."
                )
            self.lam_target.update_parameters(self.lam)

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        if self.lam is not None and self.config.freeze_lam:
            self.lam.eval()
        if self.lam_target is not None:
            self.lam_target.eval()
        return self

    def get_optim_params(self) -> list[dict[str, Any]]:
        """Two groups: the policy with its alignment head, and the LAM with `lam_lr`."""
        lam = [] if self.lam is None else [p for p in self.lam.parameters() if p.requires_grad]
        in_lam = {id(parameter) for parameter in lam}
        policy = [p for p in super().get_optim_params() if id(p) not in in_lam]
        config = self.config
        lam_group = {"params": lam} | ({} if config.lam_lr is None else {"lr": config.lam_lr})
        return [{"params": policy}] + ([lam_group] if lam else [])

    def _get_default_peft_targets(self) -> dict[str, Any]:
        """The base's; the alignment head is trained in full, the LAM stays as it is."""
        targets = super()._get_default_peft_targets()
        return targets | {"modules_to_save": [*targets["modules_to_save"], "alignment_head"]}

    def _present(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch the base policy expects: observations at the first of the two frames only."""
        observed = [key for key in self.config.input_features if key in batch]
        return {**batch, **{key: batch[key][:, 0] for key in observed}}

    def _save_pretrained(
        self, save_directory: Path, state_dict: dict[str, Tensor] | None = None, **kwargs: Any
    ) -> None:
        if self.lam is None and self._checkpoint is not None:
            self.attach_lam()  # a policy loaded to act must not lose its LAM by being saved again
        if self.lam is None:
            raise ValueError("This policy has no LAM to save. Call `attach_lam()` first.")
        state = self.state_dict() if state_dict is None else state_dict
        policy = {
            key: value for key, value in state.items() if not key.startswith((LAM_STATE, *ALIGNMENT_STATE))
        }
        super()._save_pretrained(save_directory, state_dict=policy, **kwargs)
        lam_state = {
            key.removeprefix(LAM_STATE): value for key, value in state.items() if key.startswith(LAM_STATE)
        }
        self.lam.save_pretrained(save_directory / LAM_FOLDER, state_dict=lam_state)
        rest = {key: value for key, value in state.items() if key.startswith(ALIGNMENT_STATE)}
        save_file({key: value.contiguous() for key, value in rest.items()}, save_directory / ALIGNMENT_FILE)

    def _check_lam(self, frame_gap: int, latent_width: int, recorded: str | None) -> None:
        config = self.config
        if frame_gap != config.frame_gap:
            raise ValueError(
                f"`lam_path` {config.lam_path} was trained with a frame gap of {frame_gap} control steps, but "
                f"`frame_gap` is {config.frame_gap}. Pass --policy.frame_gap={frame_gap}, or train a LAM for "
                f"{config.frame_gap}."
            )
        if recorded is None or _same_place(recorded, config.lam_path):
            return
        expected = self._read_alignment_file()["alignment.latent_width"].item()
        if latent_width != expected:
            raise ValueError(
                f"`lam_path` {config.lam_path} has latent actions of width {latent_width}, but the policy's "
                f"checkpoint was aligned with width {expected} ({recorded}). Use a LAM of that width, or start a "
                "new alignment: `lara export-dit` the checkpoint, then --policy.type=lara "
                "--policy.pretrained_path=<exported>."
            )

    def _load_alignment_state(self, state: dict[str, Tensor]) -> None:
        if not state:
            return
        assert self.alignment is not None and self._checkpoint is not None
        own = {key: value for key, value in self.state_dict().items() if key.startswith(ALIGNMENT_STATE)}
        wrong = [key for key in own if key not in state or state[key].shape != own[key].shape]
        if wrong:
            raise ValueError(
                f"{ALIGNMENT_FILE} of {self._checkpoint[0]} does not fit this configuration: {wrong[:3]} "
                "differ. Keep the checkpoint's `alignment_head`, `alignment_target` and latent width, or "
                "name another --policy.lam_path to start a new alignment."
            )
        self.load_state_dict({key: state[key] for key in own}, strict=False)

    def _recorded_lam_path(self) -> str | None:
        """The `lam_path` in the checkpoint's own config; None without a checkpoint, or one of the plain base."""
        if self._checkpoint is None:
            return None
        return read_config(*self._checkpoint).get("lam_path")

    def _read_alignment_file(self) -> dict[str, Tensor]:
        assert self._checkpoint is not None
        path, revision = self._checkpoint
        file = checkpoint_file(path, ALIGNMENT_FILE, revision)
        try:
            return load_file(file)
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"Corrupted checkpoint: {file} cannot be read ({error}). Copy or download it again."
            ) from error


def _same_place(recorded: str, lam_path: str | None) -> bool:
    """Whether two spellings of `lam_path` mean the same Hub id or folder."""
    if lam_path is None or recorded == lam_path:
        return recorded == lam_path
    return Path(lam_path).is_dir() and Path(recorded).resolve() == Path(lam_path).resolve()


def _slow_copy(lam: LatentActionModel, decay: float) -> AveragedModel:
    return AveragedModel(
        copy.deepcopy(lam), multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True
    ).requires_grad_(False)
