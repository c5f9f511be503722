"""`lara_evo1`: LeRobot's Evo-1, aligned with a latent action model."""

from dataclasses import dataclass
from typing import Any, ClassVar

from lerobot.configs import PreTrainedConfig
from lerobot.policies.evo1.configuration_evo1 import Evo1Config
from lerobot.policies.evo1.modeling_evo1 import Evo1Policy
from lerobot.policies.evo1.processor_evo1 import make_evo1_pre_post_processors

from lerobot_lara.alignment.bases.lerobot_policy import LeRobotAlignmentConfig, LeRobotAlignmentMixin
from lerobot_lara.policy.alignment_contract import TapPoint


@PreTrainedConfig.register_subclass("lara_evo1")
@dataclass
class LaraEvo1Config(LeRobotAlignmentConfig, Evo1Config):
    """`Evo1Config`'s fields, plus those of `LatentAlignmentConfig`."""

    masks_padded_actions: ClassVar[Any] = True
    released_size: ClassVar[tuple[int, int]] = (896, 8)


class LaraEvo1Policy(LeRobotAlignmentMixin, Evo1Policy):
    """`Evo1Policy`, aligned; see `LatentAlignmentMixin` for what training adds."""

    config_class = LaraEvo1Config
    name = "lara_evo1"

    @property
    def alignment_width(self) -> int:
        """Width of the hidden states."""
        return self.config.embed_dim

    @property
    def alignment_taps(self) -> list[TapPoint]:
        """Every block of the action head."""
        return [TapPoint(block) for block in self.model.action_head.transformer_blocks]


make_lara_evo1_pre_post_processors = make_evo1_pre_post_processors
