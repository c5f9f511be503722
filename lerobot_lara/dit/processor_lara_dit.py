"""Pre- and post-processing of `lara_dit`: LeRobot's default steps plus a tokenizer for the instruction."""

from dataclasses import dataclass
from typing import Any

from lerobot.processor import (
    PolicyAction,
    PolicyProcessorPipeline,
    ProcessorStepRegistry,
    TokenizerProcessorStep,
)
from lerobot.processor.factory import make_default_policy_processor_steps, make_policy_processor_pipelines
from torch import Tensor

from lerobot_lara.backbones import text_encoder_path
from lerobot_lara.dit.configuration_lara_dit import LaraDiTConfig

Pipelines = tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]],
    PolicyProcessorPipeline[PolicyAction, PolicyAction],
]


@ProcessorStepRegistry.register(name="lara_tokenizer_processor")
@dataclass
class LaraTokenizerProcessorStep(TokenizerProcessorStep):
    """LeRobot's tokenizer step, but named by the policy's `text_encoder`.

    The packaged "minilm" weights lie at another path on every machine, so the checkpoint keeps the name.
    """

    def __post_init__(self) -> None:
        name = str(self.tokenizer_name)
        self.tokenizer_name: str | None = text_encoder_path(name)
        super().__post_init__()
        self.tokenizer_name = name


def make_lara_dit_pre_post_processors(
    config: LaraDiTConfig, dataset_stats: dict[str, dict[str, Tensor]] | None = None
) -> Pipelines:
    """Builds rename -> batch -> tokenise -> device -> normalise, and unnormalise -> CPU.

    Args:
        config: The policy's configuration.
        dataset_stats: Statistics for normalisation, by feature key.

    Returns:
        The pre- and the post-processor.
    """
    steps = make_default_policy_processor_steps(config, dataset_stats)
    tokenizer = []
    if config.text_encoder is not None:
        tokenizer.append(
            LaraTokenizerProcessorStep(
                tokenizer_name=config.text_encoder,
                max_length=config.tokenizer_max_length,
                padding="longest",
            )
        )
    return make_policy_processor_pipelines(
        input_steps=[
            steps.rename_observations,
            steps.add_batch_dim,
            *tokenizer,
            steps.to_device,
            steps.normalize,
        ],
        output_steps=[steps.unnormalize, steps.to_cpu],
    )
