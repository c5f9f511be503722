"""Pre- and post-processing of `moto_gpt`: that of `lara_dit`."""

from typing import Any

from torch import Tensor

from lerobot_lara.dit.processor_lara_dit import Pipelines, make_lara_dit_pre_post_processors
from lerobot_lara.moto_gpt.configuration_moto_gpt import MotoGPTConfig


def make_moto_gpt_pre_post_processors(
    config: MotoGPTConfig, dataset_stats: dict[str, dict[str, Tensor]] | None = None
) -> Pipelines:
    """See `make_lara_dit_pre_post_processors`."""
    same_fields: Any = config
    return make_lara_dit_pre_post_processors(same_fields, dataset_stats)
