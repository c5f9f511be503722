"""`lara_pi05`: LeRobot's π0.5, aligned with a latent action model."""

from dataclasses import dataclass
from typing import ClassVar

from lerobot.configs import PreTrainedConfig
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from lerobot.policies.pi05.processor_pi05 import make_pi05_pre_post_processors

from lerobot_lara.alignment.bases.lerobot_policy import (
    LeRobotAlignmentConfig,
    LeRobotAlignmentMixin,
    norm_inputs,
)
from lerobot_lara.policy.alignment_contract import TapPoint


@PreTrainedConfig.register_subclass("lara_pi05")
@dataclass
class LaraPI05Config(LeRobotAlignmentConfig, PI05Config):
    """`PI05Config`'s fields, plus those of `LatentAlignmentConfig`."""

    tap: ClassVar[str] = "input of the norm after the block"
    released_size: ClassVar[tuple[int, int]] = (1024, 18)


class LaraPI05Policy(LeRobotAlignmentMixin, PI05Policy):
    """`PI05Policy`, aligned; see `LatentAlignmentMixin` for what training adds."""

    config_class = LaraPI05Config
    name = "lara_pi05"
    weight_prefixes = ("", "model.")

    @property
    def alignment_width(self) -> int:
        """Width of the hidden states."""
        return self.model.action_in_proj.out_features

    @property
    def alignment_taps(self) -> list[TapPoint]:
        """What each layer of the action expert puts out."""
        return norm_inputs(self.model.paligemma_with_expert.gemma_expert.model)


make_lara_pi05_pre_post_processors = make_pi05_pre_post_processors
