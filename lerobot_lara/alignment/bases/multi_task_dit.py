"""`lara_multi_task_dit`: LeRobot's multi-task DiT, aligned with a latent action model."""

from dataclasses import dataclass
from typing import ClassVar

from lerobot.configs import PreTrainedConfig
from lerobot.policies.multi_task_dit.configuration_multi_task_dit import MultiTaskDiTConfig
from lerobot.policies.multi_task_dit.modeling_multi_task_dit import MultiTaskDiTPolicy
from lerobot.policies.multi_task_dit.processor_multi_task_dit import make_multi_task_dit_pre_post_processors

from lerobot_lara.alignment.bases.lerobot_policy import LeRobotAlignmentConfig, LeRobotAlignmentMixin
from lerobot_lara.policy.alignment_contract import TapPoint


@PreTrainedConfig.register_subclass("lara_multi_task_dit")
@dataclass
class LaraMultiTaskDiTConfig(LeRobotAlignmentConfig, MultiTaskDiTConfig):
    """`MultiTaskDiTConfig`'s fields, plus those of `LatentAlignmentConfig`."""

    released_size: ClassVar[tuple[int, int]] = (512, 6)

    @property
    def masks_padded_actions(self) -> bool:  # type: ignore[override]
        """Only where its loss is told to."""
        return self.do_mask_loss_for_padding


class LaraMultiTaskDiTPolicy(LeRobotAlignmentMixin, MultiTaskDiTPolicy):
    """`MultiTaskDiTPolicy`, aligned; see `LatentAlignmentMixin` for what training adds."""

    config_class = LaraMultiTaskDiTConfig
    name = "lara_multi_task_dit"

    @property
    def alignment_width(self) -> int:
        """Width of the hidden states."""
        return self.config.hidden_dim

    @property
    def alignment_taps(self) -> list[TapPoint]:
        """Every block of the DiT."""
        return [TapPoint(block) for block in self.noise_predictor.transformer_blocks]


make_lara_multi_task_dit_pre_post_processors = make_multi_task_dit_pre_post_processors
