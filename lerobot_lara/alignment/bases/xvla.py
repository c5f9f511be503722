"""`lara_xvla`: LeRobot's X-VLA, aligned with a latent action model."""

from dataclasses import dataclass
from typing import ClassVar

from lerobot.configs import PreTrainedConfig
from lerobot.policies.xvla.configuration_xvla import XVLAConfig
from lerobot.policies.xvla.modeling_xvla import XVLAPolicy
from lerobot.policies.xvla.processor_xvla import make_xvla_pre_post_processors
from torch import Tensor

from lerobot_lara.alignment.bases.lerobot_policy import LeRobotAlignmentConfig, LeRobotAlignmentMixin
from lerobot_lara.policy.alignment_contract import TapPoint


@PreTrainedConfig.register_subclass("lara_xvla")
@dataclass
class LaraXVLAConfig(LeRobotAlignmentConfig, XVLAConfig):
    """`XVLAConfig`'s fields, plus those of `LatentAlignmentConfig`."""

    released_size: ClassVar[tuple[int, int]] = (1024, 24)


class LaraXVLAPolicy(LeRobotAlignmentMixin, XVLAPolicy):
    """`XVLAPolicy`, aligned; see `LatentAlignmentMixin` for what training adds."""

    config_class = LaraXVLAConfig
    name = "lara_xvla"

    @property
    def alignment_width(self) -> int:
        """Width of the hidden states."""
        return self.config.hidden_size

    @property
    def alignment_taps(self) -> list[TapPoint]:
        """Every block of the transformer that denoises."""
        return [TapPoint(block) for block in self.model.transformer.blocks]

    def action_tokens(self, hidden_states: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """The first T tokens: images, text and prompts come after the actions."""
        _, valid = super().action_tokens(hidden_states, batch)
        return hidden_states[:, : batch["action"].shape[1]], valid


make_lara_xvla_pre_post_processors = make_xvla_pre_post_processors
