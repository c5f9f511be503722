"""`lara_groot`: LeRobot's GR00T N1.7, aligned with a latent action model."""

from dataclasses import dataclass
from typing import Any, ClassVar

from lerobot.configs import PreTrainedConfig
from lerobot.policies.groot.configuration_groot import GrootConfig
from lerobot.policies.groot.modeling_groot import GrootPolicy
from lerobot.policies.groot.processor_groot import make_groot_pre_post_processors
from torch import Tensor

from lerobot_lara.alignment.bases.lerobot_policy import LeRobotAlignmentConfig, LeRobotAlignmentMixin
from lerobot_lara.groot_n16.release import generation
from lerobot_lara.policy.alignment_contract import TapPoint
from lerobot_lara.policy.checkpoint_files import Checkpoint


@PreTrainedConfig.register_subclass("lara_groot")
@dataclass
class LaraGrootConfig(LeRobotAlignmentConfig, GrootConfig):
    """`GrootConfig`'s fields, plus those of `LatentAlignmentConfig`."""

    masks_padded_actions: ClassVar[Any] = True
    packages: ClassVar[dict[str, str]] = {"dm-tree": "tree"}
    extra: ClassVar[str | None] = "groot"
    released_size: ClassVar[tuple[int, int]] = (1536, 32)


class LaraGrootPolicy(LeRobotAlignmentMixin, GrootPolicy):
    """`GrootPolicy`, aligned; see `LatentAlignmentMixin` for what training adds."""

    config_class = LaraGrootConfig
    name = "lara_groot"
    weight_prefixes = ("", "_groot_model.")

    @classmethod
    def check_type(cls, checkpoint: Checkpoint) -> None:
        """Takes NVIDIA's own layout too, of N1.7."""
        found = generation(checkpoint.config)
        if found is None:
            super().check_type(checkpoint)
        elif found != "N1.7":
            advice = " Pass --policy.type=lara_groot_n16." if found == "N1.6" else ""
            raise ValueError(f"{checkpoint.path} is of GR00T {found}; it must be of GR00T N1.7.{advice}")

    @property
    def alignment_width(self) -> int:
        """Width of the hidden states."""
        return self._groot_model.action_head.model.inner_dim

    @property
    def alignment_taps(self) -> list[TapPoint]:
        """Every block of the DiT."""
        return [TapPoint(block) for block in self._groot_model.action_head.model.transformer_blocks]

    def action_tokens(self, hidden_states: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Leaves out the state's token; the processor pads chunks to the model's own horizon T."""
        mask = batch["action_mask"]
        return hidden_states[:, -mask.shape[1] :], mask.bool().any(dim=-1)


make_lara_groot_pre_post_processors = make_groot_pre_post_processors
