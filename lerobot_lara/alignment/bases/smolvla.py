"""`lara_smolvla`: LeRobot's SmolVLA, aligned with a latent action model."""

from dataclasses import dataclass
from typing import Any, ClassVar

from lerobot.configs import PreTrainedConfig
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from lerobot.policies.smolvla.processor_smolvla import make_smolvla_pre_post_processors

from lerobot_lara.alignment.bases.lerobot_policy import (
    LeRobotAlignmentConfig,
    LeRobotAlignmentMixin,
    norm_inputs,
)
from lerobot_lara.policy.alignment_contract import TapPoint


@PreTrainedConfig.register_subclass("lara_smolvla")
@dataclass
class LaraSmolVLAConfig(LeRobotAlignmentConfig, SmolVLAConfig):
    """`SmolVLAConfig`'s fields, plus those of `LatentAlignmentConfig`."""

    masks_padded_actions: ClassVar[Any] = True
    tap: ClassVar[str] = "input of the norm after the block"
    released_size: ClassVar[tuple[int, int]] = (720, 16)


class LaraSmolVLAPolicy(LeRobotAlignmentMixin, SmolVLAPolicy):
    """`SmolVLAPolicy`, aligned; see `LatentAlignmentMixin` for what training adds."""

    config_class = LaraSmolVLAConfig
    name = "lara_smolvla"

    @property
    def alignment_width(self) -> int:
        """Width of the hidden states."""
        return self.model.vlm_with_expert.expert_hidden_size

    @property
    def alignment_taps(self) -> list[TapPoint]:
        """What each layer of the action expert puts out."""
        return norm_inputs(self.model.vlm_with_expert.lm_expert)


make_lara_smolvla_pre_post_processors = make_smolvla_pre_post_processors
