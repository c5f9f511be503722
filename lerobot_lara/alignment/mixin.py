"""Latent action alignment for any policy that has action tokens (paper §3; one mixin, many bases).

`class LaraPolicy(LatentAlignmentMixin, LaraDiTPolicy)` adds to its base the latent action model (LAM), the
alignment head and the joint objective

    L = L_flow + alignment_loss_weight * L_align(P(h), z) + lam_loss_weight * L_lam

and leaves inference alone. What a base has to provide is `lerobot_lara.policy.alignment_contract.AlignmentBase`.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel

from lerobot_lara.alignment.attachment import AttachedLAM
from lerobot_lara.alignment.diagnostics import alignment_diagnostics
from lerobot_lara.alignment.optimizer_groups import with_lam_group
from lerobot_lara.alignment.tap import HiddenStateTap
from lerobot_lara.alignment.targets import Target, action_target, feature_target, labeled_target
from lerobot_lara.batch.checks import Periodic
from lerobot_lara.batch.frame_gap import check_frame_gap
from lerobot_lara.batch.frame_pairs import FramePairs, plain_batch, present_batch
from lerobot_lara.batch.keys import FRAME_PAIR, IMAGE_TOKENS
from lerobot_lara.batch.observation import dataset_index
from lerobot_lara.lam.frame_encoder import check_frames, encode_frames
from lerobot_lara.lam.latent_action_model import FrameTokens, LatentActionModel
from lerobot_lara.policy.alignment_contract import require_alignment_base
from lerobot_lara.training.finite import require_finite_losses
from lerobot_lara.training.log import read_numbers
from lerobot_lara.training.memory import class_names
from lerobot_lara.training.randomness import own_randomness


@dataclass(frozen=True)
class AlignmentTarget:
    """What the hidden states of a batch are aligned to.

    Attributes:
        latent_action: (B, L, C) or (B, Z).
        valid: (B,) bool, False at samples without one; None is all True.
        dataset_index: (B,) int64, entry of the mixture; None without one.
        lam_loss: The LAM's own loss, where it learns.
        log: Its terms.
    """

    latent_action: Tensor
    valid: Tensor | None
    dataset_index: Tensor | None
    lam_loss: Tensor | float = 0.0
    log: dict[str, Tensor] = field(default_factory=dict)


class LatentAlignmentMixin(AttachedLAM):
    """Put before the base policy; see the module docstring.

    Args:
        config: A configuration with `LatentAlignmentConfig`'s fields.
        dataset_meta: Passed by LeRobot's training; its episode lengths are checked against `frame_gap`.
        **kwargs: The base's.

    Raises:
        ValueError: The base cannot be aligned, or the LAM, the data and the configuration do not fit.
    """

    def __init__(self, config: Any, *, dataset_meta: Any = None, **kwargs: Any) -> None:
        super().__init__(config, dataset_meta=dataset_meta, **kwargs)
        taps = require_alignment_base(self).alignment_taps
        self._tap = HiddenStateTap(taps[config.resolve_alignment_layer(len(taps)) - 1])
        self._range_check = Periodic()
        if dataset_meta is not None and config.target_source in ("lam", "labels"):
            check_frame_gap(dataset_meta.episodes["length"], config.frame_gap)
        if self.is_new:
            self.attach_alignment(dataset_meta)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """The joint objective.

        Args:
            batch: The base's batch, with a time axis of two frames, `frame_gap` apart, after the batch
                axis of every observation, and `<camera>_is_pad` (B, 2).

        Returns:
            The loss, and every term and diagnostic by name.

        Raises:
            ValueError: The policy was loaded to act, or the batch has no pairs of RGB frames in [0, 1].
        """
        alignment, config = self._attached(), self.config
        batch = self.augment(batch) if hasattr(self, "augment") else batch
        present, find_target = self._split(batch)
        with self._tap:
            flow_loss, flow_log = self._base.flow_loss(present)
        hidden_states, token_valid = self._base.action_tokens(self._tap.take(), present)
        self._check_learns(hidden_states)
        target = find_target(hidden_states.dtype)
        alignment_loss, predicted = alignment(
            hidden_states,
            target.latent_action,
            token_valid=token_valid,
            pair_valid=target.valid,
            dataset_index=target.dataset_index,
        )
        lam_loss = config.lam_loss_weight * target.lam_loss
        loss = flow_loss + config.alignment_loss_weight * alignment_loss + lam_loss
        log = {"flow_loss": flow_loss} | loggable(flow_log) | {"alignment_loss": alignment_loss} | target.log
        log |= alignment_diagnostics(predicted, target.latent_action, target.valid, target.dataset_index)
        numbers = read_numbers(log)
        require_finite_losses(numbers, batch)
        return loss, numbers

    def _check_learns(self, hidden_states: Tensor) -> None:
        """Refuses hidden states that no trained parameter has a part in: aligning them would teach nothing."""
        teaches = self.training and torch.is_grad_enabled() and self.config.alignment_loss_weight > 0
        if teaches and not hidden_states.requires_grad:
            layer = self.config.alignment_layer
            raise ValueError(
                f"`alignment_layer` is {layer}, but nothing up to that block is trained, so that the alignment could "
                "not teach the policy. Choose a later block, or train more of the policy."
            )

    def _split(
        self, batch: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], Callable[[torch.dtype], "AlignmentTarget"]]:
        """The base's batch at o_t, and what finds the batch's targets once the dtype of the hidden states is known."""
        source = self.config.target_source
        if source == "lam":
            return self._split_pairs(batch)
        present = plain_batch(batch)
        if source == "labels":
            found = labeled_target(batch)
        elif source == "actions":
            steps, dim = self._action_chunk
            found = action_target(batch, steps=steps, dim=dim)
        else:
            found = self._feature_target(batch)
        target = AlignmentTarget(*found, dataset_index(batch))
        return present, lambda dtype: target

    def _feature_target(self, batch: dict[str, Tensor]) -> Target:
        """Frozen features of the LAM's camera at o_t."""
        apart = FRAME_PAIR in batch
        frames = (
            FramePairs.from_batch(batch, self.lam_camera).frames[:, 0] if apart else batch[self.lam_camera]
        )
        return feature_target(self._frozen_encoder(frames.device), frames)

    def _split_pairs(
        self, batch: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], Callable[[torch.dtype], "AlignmentTarget"]]:
        """As `_split`, for targets that the LAM infers from the frame pairs."""
        assert self.lam is not None
        lam = self.lam
        pairs = FramePairs.from_batch(batch, self.lam_camera)
        check_frames(pairs.frames, values=not self.training or self._range_check.due())
        present, frame_tokens = self._present(batch, lam, pairs)

        def find_target(dtype: torch.dtype) -> AlignmentTarget:
            device, half = pairs.frames.device, dtype in (torch.bfloat16, torch.float16)
            with (
                own_randomness(self._random_seed(), device),
                # A base in half precision is trained in it: so is the LAM, whose losses take care of themselves.
                torch.autocast(device.type, dtype) if half else nullcontext(),
            ):
                latent_action, lam_loss, log = self._latent_action(lam, pairs, frame_tokens)
            return AlignmentTarget(latent_action, pairs.valid, pairs.dataset_index, lam_loss, log)

        return present, find_target

    def _present(
        self, batch: dict[str, Tensor], lam: LatentActionModel, pairs: FramePairs
    ) -> tuple[dict[str, Tensor], FrameTokens | None]:
        """The base's batch at o_t, and both frames' tokens where policy and LAM have the same image encoder."""
        present = present_batch(batch, self.config.input_features)
        if not self._shares_encoder:
            return present, None
        frame_tokens = encode_frames(lam.frame_encoder, pairs.frames)
        return present | {IMAGE_TOKENS + self.lam_camera: frame_tokens[0]}, frame_tokens

    def _latent_action(
        self, lam: LatentActionModel, pairs: FramePairs, frame_tokens: FrameTokens | None
    ) -> tuple[Tensor, Tensor | float, dict[str, Tensor]]:
        """The alignment's target (B, L, C), the LAM's loss, and its terms for the log."""
        config = self.config
        if config.freeze_lam:
            with torch.no_grad():
                return self._encode_target(lam, pairs.frames, frame_tokens), 0.0, {}
        lam_tokens = frame_tokens or encode_frames(lam.frame_encoder, pairs.frames)
        output = lam(pairs.frames, valid=pairs.valid, frame_tokens=lam_tokens)
        terms = {"loss": output.loss} | output.losses | output.metrics
        log = {f"lam_{name}": value for name, value in terms.items()}
        if self.mixture is not None:
            log |= self.mixture.means(
                "lam_prediction_error",
                output.pair_error,
                pairs.valid,
                pairs.dataset_index,
                remember=self.training,
            )
        if self.slow_lam is not None:
            with torch.no_grad():
                slow = cast(LatentActionModel, self.slow_lam.module)
                return self._encode_target(slow, pairs.frames, frame_tokens), output.loss, log
        stopped = config.alignment_target == "stop" or self._is_warming_up()
        latent_action = output.latent_action.detach() if stopped else output.latent_action
        with torch.set_grad_enabled(torch.is_grad_enabled() and not stopped):
            return self._as_target(lam, latent_action, lam_tokens), output.loss, log

    def _encode_target(
        self, lam: LatentActionModel, frames: Tensor, frame_tokens: FrameTokens | None
    ) -> Tensor:
        """What the policy is aligned with, from a LAM that does not learn here."""
        frame_tokens = frame_tokens or encode_frames(lam.frame_encoder, frames)
        latent_action = lam.encode(frames, frame_tokens=frame_tokens).latent_action
        return self._as_target(lam, latent_action, frame_tokens)

    def _as_target(self, lam: LatentActionModel, latent_action: Tensor, frame_tokens: FrameTokens) -> Tensor:
        """The latent action, relative to that of no motion where so configured."""
        if not self.config.alignment_relative:
            return latent_action
        return latent_action - lam.no_motion(frame_tokens[0])

    def update(self) -> None:
        """Counts the step and moves the slow copy of the LAM; LeRobot calls this after every optimizer step.

        Raises:
            ValueError: FSDP has sharded the LAM, so that there is no whole to copy.
        """
        base_update = getattr(super(), "update", None)
        if base_update is not None:
            base_update()
        if self.alignment is not None:
            self.alignment.num_updates += 1
            self._num_updates += 1
        if self.lam is not None and self.slow_lam is not None:
            if any(isinstance(module, FullyShardedDataParallel) for module in self.lam.modules()):
                raise ValueError(
                    "`alignment_target` is 'ema', whose slow copy of the LAM FSDP cannot shard. Train with DDP, or "
                    "pass --policy.alignment_target=stop."
                )
            self.slow_lam.update_parameters(self.lam)

    def train(self, mode: bool = True) -> Any:
        """Sets the mode; a frozen LAM and the slow copy stay in eval mode."""
        super().train(mode)
        if self.lam is not None and self.config.freeze_lam:
            self.lam.eval()
        if self.slow_lam is not None:
            self.slow_lam.eval()
        return self

    def get_optim_params(self) -> Any:
        """The base's parameters with the alignment head, and a group of the LAM's with `lam_lr`."""
        return with_lam_group(super().get_optim_params(), self.lam, self.alignment, lam_lr=self.config.lam_lr)

    @property
    def _no_split_modules(self) -> list[str]:
        """The base's, and the LAM's blocks, which FSDP shards too."""
        base = getattr(super(), "_no_split_modules", None) or []
        return [*base, *(class_names(self.lam.blocks) if self.lam is not None else [])]

    def _get_default_peft_targets(self) -> dict[str, Any]:
        """The base's; the alignment head is trained in full, the LAM stays as it is."""
        targets = super()._get_default_peft_targets() or {}
        return targets | {"modules_to_save": [*(targets.get("modules_to_save") or []), "alignment_head"]}

    def _is_warming_up(self) -> bool:
        """Whether the policy's gradient may not reach the LAM yet."""
        return self._num_updates < self.config.lam_warmup_steps

    def _random_seed(self) -> int:
        """Differs from step to step, and is the same after resuming."""
        return (torch.initial_seed() + 0x9E3779B97F4A7C15 * (1 + self._num_updates)) % 2**63


def loggable(log: dict[str, Any] | None) -> dict[str, Tensor | float]:
    """What of a base's log are numbers; its `loss` is not that of the joint objective."""
    return {
        name: value
        for name, value in (log or {}).items()
        if name != "loss"
        and (
            (isinstance(value, Tensor) and value.numel() == 1)
            or (isinstance(value, int | float) and not isinstance(value, bool))
        )
    }
