"""Any LeRobot policy behind the protocol of vla-eval (https://github.com/allenai/vla-evaluation-harness).

The harness's own LeRobot server knows none of this package's policies, maps cameras by their order, and lets an
observation pass that lacks one. This one asks for exactly what the policy was trained on.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs import FeatureType
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.policies.utils import prepare_observation_for_inference
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import Tensor
from vla_eval.model_servers.base import SessionContext
from vla_eval.model_servers.predict import PredictModelServer
from vla_eval.specs import IMAGE_RGB, LANGUAGE, DimSpec
from vla_eval.types import Action, Observation

from lerobot_lara.serving.robots import ROBOTS

logger = logging.getLogger(__name__)

_IMAGES = "observation.images."


@dataclass
class _Episode:
    """What the server keeps of a client's episode.

    Attributes:
        robot: Converts states and actions.
        seed: Where its random numbers start; None leaves them to PyTorch's.
        chance: Where they have got to, of an episode with a seed: no client's noise depends on the others.
        task: The instruction of the last observation.
    """

    robot: Any
    seed: int | None = None
    chance: tuple[Tensor, ...] = ()
    task: str | None = None


class PolicyModelServer(PredictModelServer):
    """Serves a policy to clients of vla-eval.

    Each client plays episodes of its own, and gets one action per observation. A chunk is computed when the actions of
    the last one are used up. With `max_batch_size` above 1, chunks of several clients are computed together, which may
    change their last digits; otherwise they equal those of the policy in one's own process.

    Policies that look at several observations have to see all of them: they play one episode at a time.

    Args:
        checkpoint: Folder, or name on the Hub.
        device: PyTorch device; None takes the checkpoint's.
        image_keys: The harness's camera -> the policy's; None takes equal names, or the only camera of both.
        state_key: The policy's feature for the harness's state.
        robot: Name in `ROBOTS`: how states and actions are converted.
        seed: Every episode starts from this seed, unless its start names a `seed`; None goes on with PyTorch's random
            numbers.
        max_batch_size: Most observations that are computed together.
        max_wait_time: Seconds for which a batch waits for more of them.

    Raises:
        ValueError: The checkpoint is none, or a name is not one of the policy's.
    """

    def __init__(
        self,
        checkpoint: str,
        *,
        device: str | None = None,
        image_keys: dict[str, str] | None = None,
        state_key: str = OBS_STATE,
        robot: str = "as_is",
        seed: int | None = None,
        max_batch_size: int = 1,
        max_wait_time: float = 0.01,
    ) -> None:
        if robot not in ROBOTS:
            raise ValueError(f"`robot` is {robot!r}; it must be one of {', '.join(ROBOTS)}.")
        if max_batch_size < 1:
            raise ValueError(f"`max_batch_size` is {max_batch_size}; it must be at least 1.")
        config = PreTrainedConfig.from_pretrained(checkpoint)
        if device is not None:
            config.device = device
        self.config = config
        self.checkpoint = checkpoint
        self._robot = robot
        self._seed = seed
        self._image_keys = self._check_image_keys(image_keys)
        self._state_key = state_key
        self._sees_history = (getattr(config, "n_obs_steps", 1) or 1) > 1
        if self._sees_history and max_batch_size > 1:
            raise ValueError(
                f"`max_batch_size` is {max_batch_size}; a policy of type {config.type!r} looks at several observations "
                "and plays one episode at a time. Leave it at 1."
            )
        steps = None if self._sees_history else getattr(config, "n_action_steps", 1)
        super().__init__(chunk_size=steps, max_batch_size=max_batch_size, max_wait_time=max_wait_time)
        self._policy = get_policy_class(config.type).from_pretrained(checkpoint, config=config)
        self._policy.eval()
        self._device = torch.device(config.device or "cpu")
        self._preprocess, self._postprocess = make_pre_post_processors(
            config,
            pretrained_path=checkpoint,
            preprocessor_overrides={"device_processor": {"device": str(self._device)}},
        )
        self._episodes: dict[str, _Episode] = {}
        self._sizes_seen: set[tuple[str, tuple[int, ...]]] = set()

    def describe(self) -> dict[str, Any]:
        """What a client has to send and gets, for `GET /metadata`."""
        return {
            "policy": self.config.type,
            "checkpoint": Path(self.checkpoint).name if Path(self.checkpoint).exists() else self.checkpoint,
            "cameras": {name: list(shape) for name, shape in self._cameras.items()},
            "state": self._state_width,
            "action": self._action_width,
            "n_action_steps": self.chunk_size or 1,
            "chunk_size": getattr(self.config, "chunk_size", None),
            "robot": self._robot,
        }

    def get_observation_params(self) -> dict[str, Any]:
        """What the harness's benchmarks are asked to send besides the main camera."""
        asked: dict[str, Any] = {}
        if self._state_width:
            asked["send_state"] = True
        if len(self._cameras) > 1:
            asked["send_wrist_image"] = True
        return asked

    def get_action_spec(self) -> dict[str, DimSpec]:
        """The actions' width; their meaning is that of the data that the policy was trained on."""
        return {"actions": DimSpec("raw", self._action_width, "raw")}

    def get_observation_spec(self) -> dict[str, DimSpec]:
        """What an observation has to hold."""
        spec = {"image": IMAGE_RGB, "language": LANGUAGE}
        if self._state_width:
            spec["state"] = DimSpec("raw", ROBOTS[self._robot].state_width or self._state_width, "raw")
        return spec

    async def on_episode_start(self, config: dict[str, Any], ctx: SessionContext) -> None:
        """Forgets the client's last episode.

        Raises:
            ValueError: The policy looks at several observations, and is playing another client's episode.
        """
        others = self._episodes.keys() - {ctx.session_id}
        if self._sees_history:
            if others:
                raise ValueError(
                    f"A policy of type {self.config.type!r} looks at several observations and plays one episode at a "
                    "time; another client's is not over. Wait for its end, or start another server."
                )
            self._policy.reset()
        await super().on_episode_start(config, ctx)
        seed = config.get("seed", self._seed)
        if seed is not None and (type(seed) is not int or not 0 <= seed < 2**63):
            raise ValueError(f"`seed` is {seed!r}; it must be a whole number of at least 0.")
        self._episodes[ctx.session_id] = _Episode(ROBOTS[self._robot](), seed)

    async def on_episode_end(self, result: dict[str, Any], ctx: SessionContext) -> None:
        """Forgets the client's episode."""
        self._episodes.pop(ctx.session_id, None)
        await super().on_episode_end(result, ctx)

    async def on_observation(self, obs: Observation, ctx: SessionContext) -> None:
        """Answers an observation with one action.

        Raises:
            ValueError: No episode has begun, or the observation is not what the policy needs; all of it is in one
                message.
        """
        episode = self._episodes.get(ctx.session_id)
        if episode is None:
            raise ValueError("There is no episode. Send EPISODE_START before the first observation.")
        self._check(obs)
        task = str(obs.get("task_description") or "")
        if episode.task not in (None, task):
            # The rest of the last chunk belongs to another instruction.
            self._chunk_buffers.pop(ctx.session_id, None)
            episode.robot = ROBOTS[self._robot]()
        episode.task = task
        await super().on_observation(obs, ctx)

    def predict(self, obs: Observation, ctx: SessionContext) -> Action:
        """Computes the next chunk of one client: `actions`, (n_action_steps, A) float32."""
        episode = self._episodes[ctx.session_id]
        if episode.seed is None:
            return self._predict([obs], [episode])[0]
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            if episode.chance:
                torch.set_rng_state(episode.chance[0])
                for device, state in zip(devices, episode.chance[1:], strict=True):
                    torch.cuda.set_rng_state(state, device)
            else:
                torch.manual_seed(episode.seed)
            answer = self._predict([obs], [episode])[0]
            episode.chance = (
                torch.get_rng_state(),
                *(torch.cuda.get_rng_state(device) for device in devices),
            )
        return answer

    def predict_batch(self, obs_batch: list[Observation], ctx_batch: list[SessionContext]) -> list[Action]:
        """Computes the next chunks of several clients; those whose images have the same sizes together."""
        answers: list[Action | None] = [None] * len(obs_batch)
        groups: dict[tuple, list[int]] = {}
        for index, obs in enumerate(obs_batch):
            shapes = tuple(sorted((name, np.shape(image)) for name, image in obs["images"].items()))
            groups.setdefault(shapes, []).append(index)
        for indices in groups.values():
            episodes = [self._episodes[ctx_batch[index].session_id] for index in indices]
            for index, answer in zip(
                indices, self._predict([obs_batch[index] for index in indices], episodes), strict=True
            ):
                answers[index] = answer
        return [answer for answer in answers if answer is not None]

    def _predict(self, observations: list[Observation], episodes: list[_Episode]) -> list[Action]:
        """Chunks for observations of the same sizes."""
        frames = [
            prepare_observation_for_inference(self._frame(obs, episode), self._device)
            for obs, episode in zip(observations, episodes, strict=True)
        ]
        batch: dict[str, Any] = {
            name: torch.cat([frame[name] for frame in frames])
            for name, value in frames[0].items()
            if isinstance(value, Tensor)
        }
        batch["task"] = [str(obs.get("task_description") or "") for obs in observations]
        batch = self._preprocess(batch)
        with torch.inference_mode():
            if self._sees_history:
                chunks = self._policy.select_action(batch).unsqueeze(1)
            else:
                chunks = self._policy.predict_action_chunk(batch)
        found = self._postprocess(chunks).detach().to("cpu").float().numpy()
        answers = []
        for chunk, episode in zip(found, episodes, strict=True):
            chunk = chunk[: self.chunk_size or 1]
            if not np.isfinite(chunk).all():
                raise ValueError(
                    "The policy's actions are not finite. The checkpoint is broken, or the state has other units than "
                    "its training data."
                )
            answers.append({"actions": episode.robot.actions(chunk).astype(np.float32)})
        return answers

    def _frame(self, obs: Observation, episode: _Episode) -> dict[str, np.ndarray]:
        """An observation by the policy's names."""
        images = obs["images"]
        frame = {
            feature: np.ascontiguousarray(images[camera])
            for camera, feature in self._camera_map(images).items()
        }
        if self._state_width:
            state = np.asarray(_state_of(obs), dtype=np.float32)
            frame[self._state_key] = np.asarray(episode.robot.state(state), dtype=np.float32)
        return frame

    @property
    def _cameras(self) -> dict[str, tuple[int, ...]]:
        """The policy's cameras and their shapes, (C, H, W)."""
        return {
            name: tuple(feature.shape)
            for name, feature in (self.config.input_features or {}).items()
            if feature.type is FeatureType.VISUAL
        }

    @property
    def _state_width(self) -> int:
        feature = (self.config.input_features or {}).get(self._state_key)
        return feature.shape[0] if feature else 0

    @property
    def _action_width(self) -> int:
        feature = (self.config.output_features or {}).get(ACTION)
        return feature.shape[0] if feature else 0

    def _check_image_keys(self, image_keys: dict[str, str] | None) -> dict[str, str] | None:
        """The policy's full names of the cameras that are to be fed."""
        if image_keys is None:
            return None
        full = {
            camera: name if name in self._cameras else f"{_IMAGES}{name}"
            for camera, name in image_keys.items()
        }
        unknown = sorted(set(full.values()) - self._cameras.keys())
        left_out = sorted(self._cameras.keys() - set(full.values()))
        if unknown or left_out:
            raise ValueError(
                f"`image_keys` names {', '.join(full.values())}; the policy has {', '.join(self._cameras)}. Name each "
                "of them once."
            )
        return full

    def _camera_map(self, images: dict[str, Any]) -> dict[str, str]:
        """The harness's camera -> the policy's, as far as there is one."""
        if self._image_keys is not None:
            return {camera: feature for camera, feature in self._image_keys.items() if camera in images}
        if len(self._cameras) == len(images) == 1:
            return {next(iter(images)): next(iter(self._cameras))}
        names = {name: name for name in self._cameras} | {
            name.removeprefix(_IMAGES): name for name in self._cameras
        }
        return {camera: names[camera] for camera in images if camera in names}

    def _check(self, obs: Observation) -> None:
        """Raises a `ValueError` with everything that an observation lacks."""
        problems = []
        images = obs.get("images")
        images = images if isinstance(images, dict) else {}
        fed = self._camera_map(images)
        lacking = [name for name in self._cameras if name not in fed.values()]
        if lacking:
            problems.append(
                f"it has the cameras {sorted(images) or 'none'}, and the policy needs {lacking}: start the server with "
                "--image-keys CAMERA=NAME for each"
            )
        for camera, feature in fed.items():
            image = images[camera]
            if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or np.shape(image)[2:] != (3,):
                found = f"{getattr(image, 'dtype', type(image).__name__)} {np.shape(image)}"
                problems.append(f"the image of {camera} is {found}, and must be uint8 (height, width, 3)")
            else:
                self._note_size(feature, image.shape)
        if self._state_width:
            problems += self._state_problems(_state_of(obs))
        if problems:
            raise ValueError(
                f"The observation does not fit the policy ({self.config.type}): {'; '.join(problems)}."
            )

    def _state_problems(self, state: Any) -> list[str]:
        width = ROBOTS[self._robot].state_width or self._state_width
        if state is None:
            return [f"it has no `states`, and the policy needs {width} numbers"]
        try:
            numbers = np.asarray(state, dtype=np.float64)
        except (TypeError, ValueError):
            return [f"`states` is {type(state).__name__}, and must be {width} numbers"]
        if numbers.shape != (width,):
            return [f"`states` has the shape {numbers.shape}, and must have {width} numbers"]
        if not np.isfinite(numbers).all():
            return ["`states` is not finite"]
        return []

    def _note_size(self, feature: str, shape: tuple[int, ...]) -> None:
        """Tells once of images of another size, which policies resize."""
        _, height, width = self._cameras[feature]
        if (height, width) != shape[:2] and (feature, shape) not in self._sizes_seen:
            self._sizes_seen.add((feature, shape))
            logger.warning(
                "%s comes as %d x %d pixels (height x width); the policy was trained on %d x %d, and resizes.",
                feature,
                *shape[:2],
                height,
                width,
            )


def _state_of(obs: Observation) -> Any:
    """The harness's state, which some benchmarks call `states` and others `state`."""
    return obs.get("states", obs.get("state"))
