"""Configuration of `lara`: the DiT policy, aligned with a latent action model (the paper's LARA-full)."""

from dataclasses import dataclass

from lerobot.configs import PreTrainedConfig

from lerobot_lara.alignment.config import LatentAlignmentConfig
from lerobot_lara.dit.configuration_lara_dit import LaraDiTConfig


@PreTrainedConfig.register_subclass("lara")
@dataclass
class LaraConfig(LatentAlignmentConfig, LaraDiTConfig):
    """`LaraDiTConfig`'s fields, plus those of `LatentAlignmentConfig`."""
