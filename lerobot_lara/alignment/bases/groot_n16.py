"""`lara_groot_n16`: GR00T N1.6 (of this package), aligned with a latent action model; the paper's GR00T-N1.6-LARA."""

from dataclasses import dataclass
from typing import Any, ClassVar

from lerobot.configs import PreTrainedConfig

from lerobot_lara.alignment.bases.lerobot_policy import LeRobotAlignmentConfig
from lerobot_lara.alignment.mixin import LatentAlignmentMixin
from lerobot_lara.groot_n16.configuration_groot_n16 import GrootN16Config
from lerobot_lara.groot_n16.modeling_groot_n16 import GrootN16Policy
from lerobot_lara.groot_n16.processor_groot_n16 import make_groot_n16_pre_post_processors


@PreTrainedConfig.register_subclass("lara_groot_n16")
@dataclass
class LaraGrootN16Config(LeRobotAlignmentConfig, GrootN16Config):
    """`GrootN16Config`'s fields, plus those of `LatentAlignmentConfig`."""

    masks_padded_actions: ClassVar[Any] = True
    released_size: ClassVar[tuple[int, int]] = (1536, 32)


class LaraGrootN16Policy(LatentAlignmentMixin, GrootN16Policy):
    """`GrootN16Policy`, aligned; taps, width and action tokens are its own."""

    config_class = LaraGrootN16Config
    name = "lara_groot_n16"


make_lara_groot_n16_pre_post_processors = make_groot_n16_pre_post_processors
