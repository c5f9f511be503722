"""Pre- and post-processing of `lara_lam`: LeRobot's default steps, with identity normalization."""

from typing import Any

from lerobot.processor import (
    PolicyAction,
    PolicyProcessorPipeline,
    make_default_pre_post_processors,
)
from torch import Tensor

from lerobot_lara.lam.configuration_lara_lam import LaraLAMConfig


def make_lara_lam_pre_post_processors(
    config: LaraLAMConfig, dataset_stats: dict[str, dict[str, Tensor]] | None = None
) -> tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]],
    PolicyProcessorPipeline[PolicyAction, PolicyAction],
]:
    """Builds the pre-processor (rename, batch, device) and the post-processor, which nothing uses.

    Args:
        config: The policy's configuration.
        dataset_stats: Statistics of the dataset, which identity normalization ignores.
    """
    return make_default_pre_post_processors(config, dataset_stats, normalizer_device=config.device)
