"""Latent action alignment for any policy that has action tokens (paper §3; design: one mixin, many bases).

`class LaraPolicy(LatentAlignmentMixin, LaraDiTPolicy)` adds to its base the latent action model (LAM), the
alignment head and the joint objective

    L = L_flow + alignment_loss_weight * L_align(P(h), z) + lam_loss_weight * L_lam

and leaves inference alone. A base provides `alignment_blocks`, `alignment_width`,
`action_token_states(hidden_states)`, `action_token_valid(batch)`, `augment(batch)` and
`compute_flow_loss(batch)`.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel

from lerobot_lara.alignment.attachment import AttachedLAM
from lerobot_lara.alignment.diagnostics import alignment_diagnostics
from lerobot_lara.alignment.tap import HiddenStateTap
from lerobot_lara.batch.frame_gap import check_frame_gap
from lerobot_lara.batch.frame_pairs import frame_pairs
from lerobot_lara.batch.keys import DATASET_INDEX, IMAGE_TOKENS
from lerobot_lara.lam.frame_encoder import check_frames, encode_frames
from lerobot_lara.lam.latent_action_model import FrameTokens, LatentActionModel
from lerobot_lara.training.memory import class_names


class LatentAlignmentMixin(AttachedLAM):
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
        if dataset_meta is not None:
            check_frame_gap(dataset_meta.episodes["length"], config.frame_gap)
        if attach_lam:
            self.attach_lam()

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
                return self._encode_target(self.lam, frames, frame_tokens), 0.0, {}
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
                return self._encode_target(slow_lam, frames, frame_tokens), output.loss, log
        stopped = config.alignment_target == "stop" or self.alignment.num_updates < config.lam_warmup_steps
        latent_action = output.latent_action.detach() if stopped else output.latent_action
        with torch.set_grad_enabled(torch.is_grad_enabled() and not stopped):
            return self._as_target(self.lam, latent_action, lam_tokens), output.loss, log

    def _encode_target(
        self, lam: LatentActionModel, frames: Tensor, frame_tokens: FrameTokens | None
    ) -> Tensor:
        """What the policy is aligned with, of a LAM that does not learn here."""
        frame_tokens = frame_tokens or encode_frames(lam.frame_encoder, frames)
        latent_action = lam.encode(frames, frame_tokens=frame_tokens).latent_action
        return self._as_target(lam, latent_action, frame_tokens)

    def _as_target(self, lam: LatentActionModel, latent_action: Tensor, frame_tokens: FrameTokens) -> Tensor:
        """The latent action, relative to that of no motion where so configured."""
        if not self.config.alignment_relative:
            return latent_action
        return latent_action - lam.no_motion(frame_tokens[0])

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
