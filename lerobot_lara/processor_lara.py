"""Pre- and post-processing of `lara`: that of `lara_dit`. The LAM takes its frames as they come, in [0, 1]."""

from torch import Tensor

from lerobot_lara.configuration_lara import LaraConfig
from lerobot_lara.dit.processor_lara_dit import Pipelines, make_lara_dit_pre_post_processors


def make_lara_pre_post_processors(
    config: LaraConfig, dataset_stats: dict[str, dict[str, Tensor]] | None = None
) -> Pipelines:
    """See `make_lara_dit_pre_post_processors`."""
    return make_lara_dit_pre_post_processors(config, dataset_stats)
