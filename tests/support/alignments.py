"""Alignment heads with the defaults of the configuration."""

from lerobot_lara.alignment.config import LatentAlignmentConfig
from lerobot_lara.alignment.objective import LatentAlignment

FIELDS = ("head", "pooling", "centering", "loss", "temperature")


def make_alignment(hidden_width, latent_width, **options):
    defaults = {name: getattr(LatentAlignmentConfig, f"alignment_{name}") for name in FIELDS}
    return LatentAlignment(hidden_width=hidden_width, latent_width=latent_width, **defaults | options)
