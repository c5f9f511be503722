"""Pre- and post-processing of `lara_dit`: LeRobot's default steps plus a tokenizer for the instruction."""

from dataclasses import dataclass
from typing import Any

from lerobot.configs import PipelineFeatureType, PolicyFeature
from lerobot.processor import (
    ObservationProcessorStep,
    PolicyAction,
    PolicyProcessorPipeline,
    ProcessorStepRegistry,
    TokenizerProcessorStep,
    TransitionKey,
)
from lerobot.processor.factory import make_default_policy_processor_steps, make_policy_processor_pipelines
from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS
from torch import Tensor

from lerobot_lara.backbones.encoders import text_encoder_path
from lerobot_lara.backbones.vision_language import InstructionPrompt, image_size_of
from lerobot_lara.batch.keys import PROMPT
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


@ProcessorStepRegistry.register(name="lara_vlm_prompt_processor")
@dataclass
class LaraVLMPromptProcessorStep(ObservationProcessorStep):
    """Writes the instruction as the token ids of a vision-language model, with placeholders for the cameras.

    Besides `observation.language.tokens` and `.attention_mask` it adds what else the model asks for by token, as
    `observation.language.prompt.<name>`.

    Args:
        vlm: The policy's `vlm`.
        num_cameras: Images per sample.
        image_size: Side of the images that the model sees, in pixels.
        max_length: Longest instruction, in tokens.
    """

    vlm: str
    num_cameras: int
    image_size: int
    max_length: int

    def __post_init__(self) -> None:
        self._prompt = InstructionPrompt(
            self.vlm, num_cameras=self.num_cameras, image_size=self.image_size, max_length=self.max_length
        )

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Adds the prompt to an observation.

        Raises:
            ValueError: There is no `task`.
        """
        task = (self.transition.get(TransitionKey.COMPLEMENTARY_DATA) or {}).get("task")
        if task is None:
            raise ValueError(
                "The batch has no `task`, but a policy with `conditioning=vlm` is told what to do in words. Add the "
                "instruction as `task`."
            )
        prompt = self._prompt([task] if isinstance(task, str) else list(task))
        tokens, mask = prompt.pop("input_ids"), prompt.pop("attention_mask").bool()
        rest = {PROMPT + name: values for name, values in prompt.items()}
        return {**observation, OBS_LANGUAGE_TOKENS: tokens, OBS_LANGUAGE_ATTENTION_MASK: mask, **rest}

    def get_config(self) -> dict[str, Any]:
        """The arguments, for the checkpoint."""
        return {name: getattr(self, name) for name in ("vlm", "num_cameras", "image_size", "max_length")}

    def transform_features(
        self, features: dict[PipelineFeatureType, dict[str, PolicyFeature]]
    ) -> dict[PipelineFeatureType, dict[str, PolicyFeature]]:
        """Returns the features as they are: the prompt is no feature of the dataset."""
        return features


def make_lara_dit_pre_post_processors(
    config: LaraDiTConfig, dataset_stats: dict[str, dict[str, Tensor]] | None = None
) -> Pipelines:
    """Builds rename -> batch -> tokenize -> device -> normalize, and unnormalize -> CPU.

    Args:
        config: The policy's configuration.
        dataset_stats: Statistics for normalization, by feature key.

    Returns:
        The pre- and the post-processor.
    """
    steps = make_default_policy_processor_steps(config, dataset_stats)
    tokenizer: list[ObservationProcessorStep] = []
    if config.conditioning == "vlm":
        tokenizer.append(
            LaraVLMPromptProcessorStep(
                vlm=config.vlm,
                num_cameras=len(config.image_features),
                image_size=image_size_of(config.vlm, chosen=config.vlm_image_size),
                max_length=config.tokenizer_max_length,
            )
        )
    elif config.text_encoder is not None:
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
