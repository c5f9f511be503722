"""A LeRobot policy as a model server of vla-eval: several clients, one episode each at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lerobot.utils.constants import OBS_STATE
from torch import Tensor
from vla_eval.model_servers.base import SessionContext
from vla_eval.model_servers.lerobot import LeRobotModelServer
from vla_eval.model_servers.predict import PredictModelServer

from lerobot_lara.envs.simpler_conventions import ACTION_DIM, STATE_DIM, Convention, make_convention
from lerobot_lara.policy.checkpoint_files import Checkpoint
from lerobot_lara.policy.read_config import read_config
from lerobot_lara.serving.observation_contract import ObservationContract

BATCH_SIZE = 8


@dataclass
class Episode:
    """What the server remembers of one client's episode.

    Args:
        seed: The noise of its chunks begins after `torch.manual_seed(seed)`; None draws from the shared stream.
        convention: Converts its states and actions.
        task: Its instruction; None before the first observation.
        random_states: Those of the CPU and the GPU, between two chunks.
    """

    seed: int | None
    convention: Convention | None
    task: str | None = None
    random_states: list[Tensor] = field(default_factory=list)


class PolicyServer(LeRobotModelServer):
    """Serves the chunks of a policy, action by action, to clients that speak vla-eval's protocol.

    An observation must be what the policy was trained on: see `ObservationContract`. The chunk of an observation is
    that of `predict_action_chunk` between the checkpoint's own processors, as in `lerobot-eval`, bit for bit as long as
    it is computed alone: a batch of several clients is computed by other kernels, whose last bits may differ. The first
    `n_action_steps` actions of a chunk are sent, one per observation; then the next chunk is predicted. Each client has
    its own rest of a chunk, forgotten when an episode starts and when its instruction changes.

    Args:
        checkpoint: Folder or Hub id of a policy of any type that is registered with LeRobot and sees one observation
            at a time.
        device: Such as "cpu" or "cuda:0"; None takes the checkpoint's.
        image_keys: Client's camera -> the policy's feature, where names differ.
        state_key: Key of the state in an observation; None takes `states`, or else `state`.
        resize: Fit images of other sizes into the policy's, with black borders where the aspect ratio differs.
        convention: Name in `CONVENTIONS` of what converts states and actions; None sends them as the policy has them.
        n_action_steps: Actions of a chunk that are executed; None takes the policy's.
        batch_size: Most observations per inference; None takes 8, or 1 with a seed.
        seed: Makes every episode's chunks reproducible: its noise begins after `torch.manual_seed(seed + i)`, where i
            is the `episode_idx` that the client's task names, or else the number of the client's episodes before.
        fps: Told to clients; None takes the convention's, or that of the policy's data.

    Raises:
        ValueError: The checkpoint has no actions, needs inputs that the protocol does not carry or several observations
            at a time, or an argument does not fit it.
    """

    def __init__(
        self,
        checkpoint: str,
        *,
        device: str | None = None,
        image_keys: dict[str, str] | None = None,
        state_key: str | None = None,
        resize: bool = False,
        convention: str | None = None,
        n_action_steps: int | None = None,
        batch_size: int | None = None,
        seed: int | None = None,
        fps: float | None = None,
    ) -> None:
        for name, value in {"n_action_steps": n_action_steps, "batch_size": batch_size}.items():
            if value is not None and value < 1:
                raise ValueError(f"`{name}` is {value}; it must be at least 1.")
        if fps is not None and not fps > 0:
            raise ValueError(f"`fps` is {fps}; it must be above 0.")
        if seed is not None and (batch_size or 1) > 1:
            raise ValueError(
                f"`batch_size` is {batch_size} with a `seed`; chunks are only reproducible one at a time. Leave out "
                "one of them."
            )
        config = read_config(Checkpoint(checkpoint))
        contract = self._contract(config, checkpoint, image_keys or {}, state_key, resize, convention)
        if n_action_steps is not None and n_action_steps > getattr(config, "chunk_size", n_action_steps):
            raise ValueError(
                f"`n_action_steps` is {n_action_steps}; the policy predicts {config.chunk_size} actions at once."
            )
        super().__init__(
            config.type,
            checkpoint,
            image_keys=dict(contract.image_keys) or None,
            state_key=OBS_STATE if contract.state_dim else None,
            device=device or config.device or "cpu",
            chunk_size=n_action_steps,
            max_batch_size=batch_size or (1 if seed is not None else BATCH_SIZE),
        )
        self.contract = contract
        self.convention = convention
        self.seed = seed
        self.fps = fps or (make_convention(convention).fps if convention else getattr(config, "fps", None))
        self._resize = resize
        self._episodes: dict[str, Episode] = {}
        self._started: dict[str, int] = {}

    @staticmethod
    def _contract(
        config: Any,
        checkpoint: str,
        image_keys: dict[str, str],
        state_key: str | None,
        resize: bool,
        convention: str | None,
    ) -> ObservationContract:
        """Derives what clients must send, and refuses policies that cannot be served so."""
        problems = []
        if config.action_feature is None:
            problems.append("it predicts no actions: train it on demonstrations first")
        if getattr(config, "temporal_ensemble_coeff", None) is not None:
            problems.append(
                "it averages overlapping chunks (`temporal_ensemble_coeff`), which only runs in process"
            )
        cameras = {
            name: feature for name, feature in config.image_features.items() if "empty_camera" not in name
        }
        state = config.robot_state_feature
        known = {*config.image_features, OBS_STATE}
        other = [name for name in config.input_features or {} if name not in known]
        if other:
            problems.append(f"it needs {', '.join(other)}, which vla-eval's protocol does not carry")
        state_dim = state.shape[0] if state else None
        if convention is not None:
            expected = make_convention(convention).state_dim
            if state_dim not in (None, expected):
                problems.append(f"its state has {state_dim} numbers, and that of {convention} has {expected}")
            if config.action_feature is not None and config.action_feature.shape != (ACTION_DIM,):
                problems.append(
                    f"its actions have shape {config.action_feature.shape}; those of {convention} are ({ACTION_DIM},)"
                )
            state_dim = STATE_DIM if state else None
        if problems:
            raise ValueError(
                f"`checkpoint` {checkpoint} ({config.type}) cannot be served: {'; '.join(problems)}."
            )
        return ObservationContract(
            cameras={name: _height_and_width(feature.shape) for name, feature in cameras.items()},
            state_dim=state_dim,
            image_keys={key: _feature_name(name, cameras) for key, name in image_keys.items()},
            state_key=state_key,
            any_size=resize,
        )

    def metadata(self) -> dict[str, Any]:
        """What clients may want to know: type, cameras (height, width), sizes, chunk, steps per second."""
        config = self._policy.config
        return {
            "policy_type": self.policy_type,
            "cameras": {
                feature: {"names": list(names), "size": list(self.contract.cameras[feature])}
                for feature, names in self.contract.client_cameras().items()
            },
            "state_dim": self.contract.state_dim,
            "action_dim": config.action_feature.shape[0],
            "chunk_size": getattr(config, "chunk_size", None),
            "n_action_steps": self.chunk_size,
            "convention": self.convention,
            "fps": self.fps,
        }

    async def on_episode_start(self, config: dict[str, Any], ctx: SessionContext) -> None:
        """Forgets the client's previous episode, and nothing of other clients."""
        number = self._started.get(ctx.session_id, 0)
        self._started[ctx.session_id] = number + 1
        task = config.get("task")
        index = task.get("episode_idx") if isinstance(task, dict) else None
        seed = None
        if self.seed is not None:
            seed = self.seed + (index if isinstance(index, int) else number)
        convention = make_convention(self.convention) if self.convention else None
        self._episodes[ctx.session_id] = Episode(seed, convention)
        # Not that of LeRobotModelServer, which resets the policy that all clients share.
        await PredictModelServer.on_episode_start(self, config, ctx)

    async def on_episode_end(self, result: dict[str, Any], ctx: SessionContext) -> None:
        """Forgets the client's episode."""
        self._episodes.pop(ctx.session_id, None)
        await PredictModelServer.on_episode_end(self, result, ctx)

    def forget_client(self, session_id: str) -> None:
        """Forgets a client that has gone."""
        self._started.pop(session_id, None)

    async def on_observation(self, obs: dict[str, Any], ctx: SessionContext) -> None:
        """Answers an observation with the next action.

        Raises:
            ValueError: No episode has started, the observation does not fit the policy, or an action is not finite.
        """
        episode = self._episodes.get(ctx.session_id)
        if episode is None:
            raise ValueError("An observation came without an episode. Send EPISODE_START first.")
        images, state, task = self.contract.read(obs)
        if state is not None and episode.convention is not None:
            state = episode.convention.state(state)
        if task != episode.task:
            # The rest of the chunk was predicted for another instruction.
            self._chunk_buffers.pop(ctx.session_id, None)
            if episode.convention is not None:
                episode.convention.reset()
            episode.task = task
        await super().on_observation({"images": images, "state": state, "task": task}, ctx)

    def to_client(self, payload: dict[str, Any], ctx: SessionContext) -> dict[str, Any]:
        """Converts an answer to the client's convention, step by step of its episode."""
        episode = self._episodes.get(ctx.session_id)
        if episode is None or episode.convention is None:
            return payload
        return {**payload, "actions": episode.convention.action(payload["actions"])}

    def predict(self, obs: dict[str, Any], ctx: SessionContext) -> dict[str, Any]:
        """Predicts the chunk of one observation."""
        return self.predict_batch([obs], [ctx])[0]

    def predict_batch(
        self, obs_batch: list[dict[str, Any]], ctx_batch: list[SessionContext]
    ) -> list[dict[str, Any]]:
        """Predicts one chunk per observation, as `on_observation` has read them.

        Returns:
            `actions` (n_action_steps, A) float32 for each observation, or `failure`: what its client is told.
        """
        try:
            chunks = self._predict_chunks(obs_batch, ctx_batch)
        except Exception as error:
            if len(obs_batch) == 1:
                return [{"failure": error}]
            # The others must not fail with the one that does.
            return [self.predict(obs, ctx) for obs, ctx in zip(obs_batch, ctx_batch)]
        return [
            {"actions": chunk}
            if np.isfinite(chunk).all()
            else {
                "failure": ValueError(
                    "The policy's actions are not finite. Check its training and the observation."
                )
            }
            for chunk in chunks
        ]

    def _normalize_result(self, result: dict[str, Any], ctx: SessionContext) -> dict[str, Any]:
        """Raises the failure of a request in the task that waits for it."""
        if "failure" in result:
            raise result["failure"]
        return super()._normalize_result(result, ctx)

    def _predict_chunks(
        self, observations: list[dict[str, Any]], contexts: list[SessionContext]
    ) -> np.ndarray:
        """(B, n_action_steps, A) in the robot's units."""
        batch: dict[str, Any] = {}
        for feature in observations[0]["images"]:
            images = [one["images"][feature] for one in observations]
            if self._resize:
                images = [self._resize_to_declared(image, feature) for image in images]
            # In the order of LeRobot's evaluation, so that every bit is the same.
            channels_first = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
            batch[feature] = channels_first.type(torch.float32) / 255
        if observations[0]["state"] is not None:
            batch[OBS_STATE] = torch.from_numpy(np.stack([one["state"] for one in observations]))
        batch["task"] = [one["task"] for one in observations]
        with torch.inference_mode(), self._noise_of(contexts):
            chunk = self._policy.predict_action_chunk(self._preprocess(batch))[:, : self.chunk_size]
            # One action at a time, which is what a postprocessor gets from LeRobot's evaluation and from its robots.
            actions = torch.stack([self._postprocess(step) for step in chunk.unbind(1)], dim=1)
        return actions.to("cpu", torch.float32).numpy()

    @contextmanager
    def _noise_of(self, contexts: list[SessionContext]) -> Iterator[None]:
        """Lets random numbers continue those of the one episode, if the server has a seed."""
        episode = self._episodes.get(contexts[0].session_id)
        if episode is None or episode.seed is None:
            yield
            return
        on_gpu = self._device.type == "cuda"
        with torch.random.fork_rng(devices=[self._device] if on_gpu else []):
            if episode.random_states:
                torch.set_rng_state(episode.random_states[0])
                if on_gpu:
                    torch.cuda.set_rng_state(episode.random_states[1], self._device)
            else:
                torch.manual_seed(episode.seed)
            yield
            episode.random_states = [torch.get_rng_state()]
            if on_gpu:
                episode.random_states.append(torch.cuda.get_rng_state(self._device))


def _height_and_width(shape: tuple[int, ...]) -> tuple[int, int]:
    """Of an image feature, whose channels LeRobot has first or last."""
    height, width = shape[1:] if shape[0] in (1, 3) else shape[:2]
    return height, width


def _feature_name(name: str, cameras: dict[str, Any]) -> str:
    """The policy's feature for a name that may lack its prefix."""
    prefixed = f"observation.images.{name}"
    return prefixed if name not in cameras and prefixed in cameras else name
