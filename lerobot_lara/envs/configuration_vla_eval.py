"""The environment type `vla_eval`: a benchmark of vla-eval that runs in another Python environment."""

import functools
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_IMAGE, OBS_IMAGES, OBS_STATE
from lerobot.utils.import_utils import require_package

from lerobot_lara.envs.simpler_conventions import ACTION_DIM, make_convention


@EnvConfig.register_subclass("vla_eval")
@dataclass
class VlaEvalEnvConfig(EnvConfig):
    """A benchmark of the evaluation harness vla-eval (allenai), driven by LeRobot's evaluation.

    The harness runs in the environment of `python`, with packages that may contradict those here, and is started and
    ended by the environment. It decides which episodes are played: the n-th reset starts episode n - 1 of the task, and
    seeds are not used. With several copies, each plays its share of `episodes`.

    Attributes:
        python: Interpreter of the environment that has vla-eval and the benchmark; empty takes this one.
        python_path: Folders in which it finds the benchmark's module, besides its own, the current one and that of this
            package's benchmarks.
        config_file: Benchmark's YAML file for `vla-eval run`, with one entry in `benchmarks`.
        task: Names of tasks or suites of the benchmark, separated by commas; empty plays all its tasks as one.
        episodes: Episodes per task; at least --eval.n_episodes.
        params: Arguments of the benchmark's class, which go before those in `config_file`.
        cameras: The benchmark's camera -> feature: observation.images.<name>, or observation.image for the only one.
        image_size: Height and width of every camera, in pixels.
        state_dim: Numbers in the state that the policy reads; 0 if it reads none.
        action_dim: Numbers in an action.
        convention: "simpler_google" or "simpler_widowx" converts states and actions of SIMPLER's robots; None passes
            them on.
        fps: Control steps per second of the benchmark.
        episode_length: Steps after which an episode is truncated.
        start_timeout: Seconds until the first observation of the first episode, with all imports.
        step_timeout: Seconds until any later observation.
        features: Set from the other fields.
        features_map: Set from the other fields.
    """

    python: str = ""
    python_path: str = ""
    config_file: str = ""
    task: str = ""
    episodes: int = 50
    params: dict[str, Any] = field(default_factory=dict)
    cameras: dict[str, str] = field(default_factory=lambda: {"primary": OBS_IMAGE})
    image_size: list[int] = field(default_factory=lambda: [256, 256])
    state_dim: int = 0
    action_dim: int = 7
    convention: str | None = None
    fps: int = 10
    episode_length: int = 300
    start_timeout: float = 600.0
    step_timeout: float = 120.0
    features: dict[str, PolicyFeature] = field(default_factory=dict)
    features_map: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("episodes", "action_dim", "fps", "episode_length", "start_timeout", "step_timeout"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"`{name}` is {getattr(self, name)}; it must be above 0. Pass --env.{name}=..."
                )
        if self.state_dim < 0:
            raise ValueError(
                f"`state_dim` is {self.state_dim}; it must not be negative. Pass --env.state_dim=..."
            )
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise ValueError(
                f"`image_size` is {self.image_size}; it must be a height and a width: --env.image_size='[256,256]'."
            )
        self._check_cameras()
        self._check_convention()
        names = self.task_names()
        if len(set(names)) != len(names):
            raise ValueError(
                f"`task` is {self.task!r}, which names a task more than once. Name each task once."
            )
        shape = (*self.image_size, 3)
        self.features = {"action": PolicyFeature(type=FeatureType.ACTION, shape=(self.action_dim,))}
        self.features_map = {"action": ACTION}
        for feature in self.cameras.values():
            key = "pixels" if feature == OBS_IMAGE else f"pixels/{feature.removeprefix(f'{OBS_IMAGES}.')}"
            self.features[key] = PolicyFeature(type=FeatureType.VISUAL, shape=shape)
            self.features_map[key] = feature
        if self.state_dim:
            self.features["agent_pos"] = PolicyFeature(type=FeatureType.STATE, shape=(self.state_dim,))
            self.features_map["agent_pos"] = OBS_STATE

    def _check_cameras(self) -> None:
        features = list(self.cameras.values())
        prefix = f"{OBS_IMAGES}."
        wrong = [
            feature
            for feature in features
            if not (feature == OBS_IMAGE and len(features) == 1)
            and not (feature.startswith(prefix) and len(feature) > len(prefix))
        ]
        if not features or wrong or len(set(features)) != len(features):
            raise ValueError(
                f"`cameras` is {self.cameras}; it must map each of the benchmark's cameras to another feature, "
                f"{OBS_IMAGES}.<name>, or {OBS_IMAGE} if there is one. Pass --env.cameras='{{primary: {OBS_IMAGE}}}'."
            )

    def _check_convention(self) -> None:
        if self.convention is None:
            return
        expected = make_convention(self.convention).state_dim
        if self.action_dim != ACTION_DIM or self.state_dim not in (0, expected):
            raise ValueError(
                f"`action_dim` is {self.action_dim} and `state_dim` {self.state_dim}; `convention` {self.convention!r} "
                f"has {ACTION_DIM} and {expected} (or 0): --env.action_dim={ACTION_DIM} --env.state_dim={expected}."
            )

    def task_names(self) -> list[str]:
        """The names in `task`."""
        return [name.strip() for name in (self.task or "").split(",") if name.strip()]

    @property
    def gym_kwargs(self) -> dict:
        """Arguments of the environment."""
        return {
            "cameras": self.cameras,
            "image_size": tuple(self.image_size),
            "state_dim": self.state_dim,
            "action_dim": self.action_dim,
            "convention": self.convention,
            "fps": self.fps,
            "episode_length": self.episode_length,
            "start_timeout": self.start_timeout,
            "step_timeout": self.step_timeout,
        }

    def create_envs(
        self, n_envs: int, use_async_envs: bool = False
    ) -> dict[str, dict[int, gym.vector.VectorEnv]]:
        """Creates a vector environment for each task: name -> 0 -> environment. Nothing is started yet.

        Raises:
            ValueError: `python` is no interpreter, or `config_file` is no benchmark of vla-eval.
        """
        require_package("vla-eval", extra="serve", import_name="vla_eval")
        from lerobot_lara.envs.vector_env import make_vector_env
        from lerobot_lara.envs.vla_eval import VlaEvalEnv, read_benchmark

        python = shutil.which(self.python) if self.python else sys.executable
        if python is None:
            raise ValueError(
                f"`python` is {self.python!r}, which is no program. Give the interpreter of the environment that has "
                "the benchmark: --env.python=/path/to/venv/bin/python."
            )
        if not self.config_file or not Path(self.config_file).is_file():
            raise ValueError(
                f"`config_file` is {self.config_file!r}, which is no file. Give the benchmark's YAML file: "
                "--env.config_file=..."
            )
        benchmark = read_benchmark(self.config_file)
        settings = {
            "python": python,
            "python_path": self.python_path,
            "benchmark": benchmark,
            "params": self.params,
            "episodes": self.episodes,
            **self.gym_kwargs,
        }
        return {
            name or benchmark["benchmark"].rpartition(":")[2]: {
                0: make_vector_env(
                    # The copies share the episodes of the task.
                    [
                        functools.partial(VlaEvalEnv, name, **settings, shard=(number, n_envs))
                        for number in range(n_envs)
                    ],
                    use_async_envs=use_async_envs,
                    module=VlaEvalEnv.__module__,
                )
            }
            for name in self.task_names() or [""]
        }
