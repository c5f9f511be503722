"""`lara_vla_jepa`: LeRobot's VLA-JEPA, aligned with a latent action model."""

from dataclasses import dataclass
from typing import Any, ClassVar

from lerobot.configs import PreTrainedConfig
from lerobot.policies.vla_jepa.configuration_vla_jepa import VLAJEPAConfig
from lerobot.policies.vla_jepa.modeling_vla_jepa import VLAJEPAPolicy
from lerobot.policies.vla_jepa.processor_vla_jepa import make_vla_jepa_pre_post_processors
from torch import Tensor

from lerobot_lara.alignment.bases.lerobot_policy import LeRobotAlignmentConfig, LeRobotAlignmentMixin
from lerobot_lara.policy.alignment_contract import TapPoint


@PreTrainedConfig.register_subclass("lara_vla_jepa")
@dataclass
class LaraVLAJEPAConfig(LeRobotAlignmentConfig, VLAJEPAConfig):
    """`VLAJEPAConfig`'s fields, plus those of `LatentAlignmentConfig`."""

    masks_padded_actions: ClassVar[Any] = True
    released_size: ClassVar[tuple[int, int]] = (768, 16)


class LaraVLAJEPAPolicy(LeRobotAlignmentMixin, VLAJEPAPolicy):
    """`VLAJEPAPolicy`, aligned; see `LatentAlignmentMixin` for what training adds."""

    config_class = LaraVLAJEPAConfig
    name = "lara_vla_jepa"

    @property
    def alignment_width(self) -> int:
        """Width of the hidden states."""
        return self.model.action_model.input_embedding_dim

    @property
    def alignment_taps(self) -> list[TapPoint]:
        """Every block of the DiT."""
        return [TapPoint(block) for block in self.model.action_model.model.transformer_blocks]

    def action_tokens(self, hidden_states: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """The last T tokens of each of the r times that the batch is denoised, side by side: (B, r * T, D)."""
        actions, valid = super().action_tokens(hidden_states, batch)
        copies = len(actions) // len(batch["action"])
        side_by_side = actions.unflatten(0, (copies, -1)).transpose(0, 1).flatten(1, 2)
        return side_by_side, None if valid is None else valid.repeat(1, copies)


make_lara_vla_jepa_pre_post_processors = make_vla_jepa_pre_post_processors
