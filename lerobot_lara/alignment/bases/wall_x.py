"""`lara_wall_x`: LeRobot's WALL-OSS, aligned with a latent action model."""

from dataclasses import dataclass
from typing import Any, ClassVar

from lerobot.configs import PreTrainedConfig
from lerobot.policies.wall_x.configuration_wall_x import WallXConfig
from lerobot.policies.wall_x.modeling_wall_x import WallXPolicy
from lerobot.policies.wall_x.processor_wall_x import make_wall_x_pre_post_processors
from torch import Tensor

from lerobot_lara.alignment.bases.lerobot_policy import LeRobotAlignmentConfig, LeRobotAlignmentMixin
from lerobot_lara.policy.alignment_contract import TapPoint


@PreTrainedConfig.register_subclass("lara_wall_x")
@dataclass
class LaraWallXConfig(LeRobotAlignmentConfig, WallXConfig):
    """`WallXConfig`'s fields, plus those of `LatentAlignmentConfig`."""

    packages: ClassVar[dict[str, str]] = {"torchdiffeq": "torchdiffeq", "qwen-vl-utils": "qwen_vl_utils"}
    extra: ClassVar[str | None] = "wall_x"
    released_size: ClassVar[tuple[int, int]] = (2048, 36)


class LaraWallXPolicy(LeRobotAlignmentMixin, WallXPolicy):
    """`WallXPolicy`, aligned; see `LatentAlignmentMixin` for what training adds."""

    config_class = LaraWallXConfig
    name = "lara_wall_x"

    @property
    def alignment_width(self) -> int:
        """Width of the hidden states."""
        return self.model.config.hidden_size

    @property
    def alignment_taps(self) -> list[TapPoint]:
        """Every layer of the language model, which has the actions among its tokens."""
        return [TapPoint(layer) for layer in self.model.model.layers]

    def preprocess_inputs(self, *args: Any, **kwargs: Any) -> Any:
        """The base's, whose record of which tokens are actions is kept: they begin elsewhere in every sample."""
        inputs = super().preprocess_inputs(*args, **kwargs)
        self._is_action = inputs["moe_token_types"].bool()
        return inputs

    def action_tokens(self, hidden_states: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """The tokens of the actions, (B, T, D)."""
        actions = hidden_states[self._is_action].unflatten(0, (len(hidden_states), -1))
        is_pad = batch.get("action_is_pad")
        return actions, None if is_pad is None else ~is_pad.bool()


make_lara_wall_x_pre_post_processors = make_wall_x_pre_post_processors
