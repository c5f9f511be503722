"""`lara_pi0`: LeRobot's π0, aligned with a latent action model."""

from dataclasses import dataclass
from typing import ClassVar

from lerobot.configs import PreTrainedConfig
from lerobot.policies.pi0.configuration_pi0 import PI0Config
from lerobot.policies.pi0.modeling_pi0 import PI0Policy
from lerobot.policies.pi0.processor_pi0 import make_pi0_pre_post_processors

from lerobot_lara.alignment.bases.lerobot_policy import (
    LeRobotAlignmentConfig,
    LeRobotAlignmentMixin,
    norm_inputs,
)
from lerobot_lara.policy.alignment_contract import TapPoint


@PreTrainedConfig.register_subclass("lara_pi0")
@dataclass
class LaraPI0Config(LeRobotAlignmentConfig, PI0Config):
    """`PI0Config`'s fields, plus those of `LatentAlignmentConfig`."""

    tap: ClassVar[str] = "input of the norm after the block"
    released_size: ClassVar[tuple[int, int]] = (1024, 18)


class LaraPI0Policy(LeRobotAlignmentMixin, PI0Policy):
    """`PI0Policy`, aligned; see `LatentAlignmentMixin` for what training adds."""

    config_class = LaraPI0Config
    name = "lara_pi0"
    weight_prefixes = ("", "model.")

    @property
    def alignment_width(self) -> int:
        """Width of the hidden states."""
        return self.model.action_in_proj.out_features

    @property
    def alignment_taps(self) -> list[TapPoint]:
        """What each layer of the action expert puts out."""
        return norm_inputs(self.model.paligemma_with_expert.gemma_expert.model)


make_lara_pi0_pre_post_processors = make_pi0_pre_post_processors
