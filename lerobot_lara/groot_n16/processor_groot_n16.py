"""Pre- and post-processing of `groot_n16`: prompts as tokens, states and actions by joint group.

Images stay as they are, in [0, 1]: the policy prepares them, on its device. Actions leave the policy in the robot's
own units, as how to decode them depends on the state that they were predicted from; nothing is left for the
postprocessor to do.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from lerobot.configs import PipelineFeatureType, PolicyFeature
from lerobot.lerobot_types import EnvTransition
from lerobot.processor import (
    ObservationProcessorStep,
    PolicyAction,
    PolicyProcessorPipeline,
    ProcessorStep,
    ProcessorStepRegistry,
    TransitionKey,
)
from lerobot.processor.factory import make_default_policy_processor_steps, make_policy_processor_pipelines
from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS, OBS_STATE
from torch import Tensor

from lerobot_lara.groot_n16.configuration_groot_n16 import GrootN16Config
from lerobot_lara.groot_n16.images import prepared_size
from lerobot_lara.groot_n16.normalization import ActionEncoding, StateEncoding
from lerobot_lara.groot_n16.prompt import PromptTokenizer

# Keys that the normalizer adds to a batch.
ACTION_MASK, EMBODIMENT_ID = "action_mask", "embodiment_id"
ACTION_OFFSET, ACTION_SCALE, ACTION_BOUND = "action_offset", "action_scale", "action_bound"

Pipelines = tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]],
    PolicyProcessorPipeline[PolicyAction, PolicyAction],
]
Features = dict[PipelineFeatureType, dict[str, PolicyFeature]]


@ProcessorStepRegistry.register(name="groot_n16_prompt_processor")
@dataclass
class GrootN16PromptProcessorStep(ObservationProcessorStep):
    """Writes instruction and cameras as `observation.language.tokens` and `.attention_mask`, padded on the left.

    Args:
        tokenizer: See `GrootN16Config`.
        image_token_id: See `GrootN16Config`.
        formalize_language: See `GrootN16Config`.
        cameras: Keys of the cameras, in order.
        shortest_image_edge: See `GrootN16Config`.
        crop_fraction: See `GrootN16Config`.
        token_side: Pixels per side of an image token.
    """

    tokenizer: str
    image_token_id: int
    formalize_language: bool
    cameras: list[str]
    shortest_image_edge: int
    crop_fraction: float
    token_side: int

    def __post_init__(self) -> None:
        self._prompt = PromptTokenizer(
            self.tokenizer, image_token_id=self.image_token_id, formalize_language=self.formalize_language
        )

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Adds the prompt to an observation.

        Raises:
            ValueError: There is no `task`, or a camera is missing.
        """
        task = (self.transition.get(TransitionKey.COMPLEMENTARY_DATA) or {}).get("task")
        if task is None:
            raise ValueError(
                "The batch has no `task`, but groot_n16 is told what to do in words. Add the instruction as `task`."
            )
        missing = [key for key in self.cameras if key not in observation]
        if missing:
            raise ValueError(
                f"The observation lacks the cameras {missing}; it must have {self.cameras}. Pass --rename_map to "
                "rename the robot's cameras."
            )
        batch_size = len(observation[self.cameras[0]])
        instructions = [task] * batch_size if isinstance(task, str) else list(task)
        if len(instructions) != batch_size:
            raise ValueError(
                f"The batch has {len(instructions)} instructions (`task`); it must have {batch_size}, one for each "
                "sample."
            )
        counts = [self._num_tokens(*observation[key].shape[-2:]) for key in self.cameras]
        tokens, mask = self._prompt(instructions, counts)
        return {**observation, OBS_LANGUAGE_TOKENS: tokens, OBS_LANGUAGE_ATTENTION_MASK: mask}

    def _num_tokens(self, height: int, width: int) -> int:
        height, width = prepared_size(
            height,
            width,
            shortest_edge=self.shortest_image_edge,
            crop_fraction=self.crop_fraction,
            token_side=self.token_side,
        )
        return height * width // self.token_side**2

    def get_config(self) -> dict[str, Any]:
        """The arguments, for the checkpoint."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def transform_features(self, features: Features) -> Features:
        """Returns the features as they are: the prompt is no feature of the dataset."""
        return features


@ProcessorStepRegistry.register(name="groot_n16_normalizer_processor")
@dataclass
class GrootN16NormalizerProcessorStep(ProcessorStep):
    """Encodes states and actions and pads them to the widths of the network.

    `observation.state` becomes (B, max_state_dim), `action` (B, action_horizon, max_action_dim). Adds `action_mask` of
    that shape, `embodiment_id` (B,), and how the policy decodes its actions: `action_offset` and `action_scale`
    (B, T, A), `action_bound` (A,).

    Args:
        max_state_dim: See `GrootN16Config`.
        max_action_dim: See `GrootN16Config`.
        action_horizon: See `GrootN16Config`.
        embodiment_id: Row of the per-embodiment weights.
        state: Encoding of states; None without a state, and until a checkpoint's is read.
        action: Encoding of actions; None until a checkpoint's is read.
    """

    max_state_dim: int
    max_action_dim: int
    action_horizon: int
    embodiment_id: int
    state: StateEncoding | None = field(default=None, repr=False)
    action: ActionEncoding | None = field(default=None, repr=False)

    def __call__(self, transition: EnvTransition) -> EnvTransition:
        """Encodes a transition; a new one.

        Raises:
            ValueError: A state or action has another number of dimensions than the robot's.
        """
        assert self.action is not None
        observation = dict(transition[TransitionKey.OBSERVATION] or {})  # type: ignore[literal-required]
        raw_state = observation.get(OBS_STATE)
        some: Tensor = raw_state if raw_state is not None else observation[OBS_LANGUAGE_TOKENS]
        size, device = len(some), some.device
        action = self.action = self.action.to(device)
        padded_state = torch.zeros(size, self.max_state_dim, device=device)
        if self.state is not None:
            self.state = self.state.to(device)
            _require_size(OBS_STATE, raw_state, self.state.raw_size)
            assert raw_state is not None
            encoded = self.state.encode(raw_state)
            padded_state[:, : encoded.shape[1]] = encoded
        observation[OBS_STATE] = padded_state

        references = action.references(raw_state, size)
        offset, scale = action.decoder(references)
        extra = dict(transition.get(TransitionKey.COMPLEMENTARY_DATA) or {})
        extra |= {
            EMBODIMENT_ID: torch.full((size,), self.embodiment_id, device=device),
            ACTION_OFFSET: offset,
            ACTION_SCALE: scale,
            ACTION_BOUND: action.bound,
        }
        changed: Any = {
            **transition,
            TransitionKey.OBSERVATION: observation,
            TransitionKey.COMPLEMENTARY_DATA: extra,
        }
        raw_action = transition.get(TransitionKey.ACTION)
        if isinstance(raw_action, Tensor) and raw_action.ndim == 3:
            _require_size("action", raw_action, action.size)
            is_pad = extra.get("action_is_pad")
            encoded, mask = self._pad(action.encode(raw_action, references), is_pad)
            changed[TransitionKey.ACTION] = encoded
            extra[ACTION_MASK] = mask
        return changed

    def _pad(self, actions: Tensor, is_pad: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, T, A) and (B, T) bool -> actions and mask of the network's horizon and width; 0 where the mask is."""
        size, steps, dims = actions.shape
        padded = actions.new_zeros(size, self.action_horizon, self.max_action_dim)
        mask = torch.zeros_like(padded)
        valid = actions.new_ones(size, steps) if is_pad is None else (~is_pad.bool()).to(actions)
        mask[:, :steps, :dims] = valid[..., None]
        padded[:, :steps, :dims] = actions
        return padded * mask, mask

    def get_config(self) -> dict[str, Any]:
        """The arguments that are numbers, for the checkpoint."""
        names = ("max_state_dim", "max_action_dim", "action_horizon", "embodiment_id")
        return {name: getattr(self, name) for name in names}

    def state_dict(self) -> dict[str, Tensor]:
        """The encodings, for the checkpoint."""
        tensors = {} if self.action is None else self.action.to_dict("action")
        return tensors | ({} if self.state is None else self.state.to_dict("state"))

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Reads the encodings of a checkpoint."""
        self.action = ActionEncoding.from_dict(state, "action")
        has_state = any(name.startswith("state.") for name in state)
        self.state = StateEncoding.from_dict(state, "state") if has_state else None

    def transform_features(self, features: Features) -> Features:
        """Returns the features as they are: they describe the robot, not the network."""
        return features


def make_groot_n16_pre_post_processors(
    config: GrootN16Config,
    dataset_stats: dict[str, dict[str, Tensor]] | None = None,
    dataset_meta: Any = None,
) -> Pipelines:
    """Builds rename -> batch -> prompt -> device -> normalize, and a step to the CPU.

    Args:
        config: The policy's configuration.
        dataset_stats: Statistics by feature key, for robots that the release does not know.
        dataset_meta: Metadata of the dataset, for relative actions; LeRobot's training leaves it on the configuration.

    Returns:
        The pre- and the post-processor.
    """
    from lerobot_lara.groot_n16.robot import make_robot

    robot = make_robot(config, dataset_stats, dataset_meta or getattr(config, "_runtime_dataset_meta", None))
    steps = make_default_policy_processor_steps(config, dataset_stats)
    prompt = GrootN16PromptProcessorStep(
        tokenizer=config.tokenizer,
        image_token_id=config.image_token_id,
        formalize_language=config.formalize_language,
        cameras=robot.cameras,
        shortest_image_edge=config.shortest_image_edge,
        crop_fraction=config.crop_fraction,
        token_side=config.token_side,
    )
    normalizer = GrootN16NormalizerProcessorStep(
        max_state_dim=config.max_state_dim,
        max_action_dim=config.max_action_dim,
        action_horizon=config.action_horizon,
        embodiment_id=config.embodiment_id,
        state=robot.state,
        action=robot.action,
    )
    return make_policy_processor_pipelines(
        # LeRobot's own normalizer changes nothing, but its commands set its statistics by name.
        input_steps=[
            steps.rename_observations,
            steps.add_batch_dim,
            prompt,
            steps.to_device,
            steps.normalize,
            normalizer,
        ],
        output_steps=[steps.unnormalize, steps.to_cpu],
    )


def _require_size(key: str, value: Tensor | None, size: int) -> None:
    found = "nothing" if value is None else f"{tuple(value.shape)}"
    if value is None or value.shape[-1] != size:
        raise ValueError(
            f"`{key}` is {found}; it must have {size} dimensions, as in the data that the policy was trained on."
        )
