"""The simulators with scripted experts, for `lara collect-demos`. The simulators are imported when one is made."""

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lerobot.utils.constants import OBS_IMAGE, OBS_IMAGES
from lerobot.utils.import_utils import require_package

from lerobot_lara.envs import configuration_libero_fast as libero
from lerobot_lara.envs import configuration_metaworld_fast as metaworld
from lerobot_lara.envs import configuration_simpler as simpler
from lerobot_lara.envs.demonstrations import Demonstration, record_demonstration

if TYPE_CHECKING:
    import gymnasium as gym
    import numpy as np


@dataclass(frozen=True)
class DemonstrationSource:
    """A simulator and its scripted experts.

    Attributes:
        env_type: The type of the environment in LeRobot.
        package: Package of the simulator.
        import_name: The name under which it is imported.
        extra: Extra of this package that installs it.
        environment: Module of the environment, imported once for several processes.
        expert: Module with `attempt`, `start_expert` and `NOISE_STDS`.
        robot_type: The robot's name in the dataset.
        fps: Steps per second.
        cameras: The cameras' names in the dataset.
        state_names: Parts of `observation.state`.
        action_names: Parts of `action`.
        image_size: Height and width in pixels, unless others are asked for.
        steps_after_success: Steps recorded after the task is solved, unless others are asked for.
        tasks: Expands a comma-separated list of tasks and groups.
        instruction: What the robot is told in a task.
        make: Makes the environment of a task with images of a height and width.
        check: Raises a `ValueError` if files of the tasks are missing, or the expert is not made for them.
        solves: Whether the expert is made for a task.
    """

    env_type: str
    package: str
    import_name: str
    extra: str
    environment: str
    expert: str
    robot_type: str
    fps: int
    cameras: tuple[str, ...]
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    image_size: tuple[int, int]
    steps_after_success: int
    tasks: Callable[[str], dict[str, list[str]]]
    instruction: Callable[[str], str]
    make: Callable[[Any, str, tuple[int, int]], "gym.Env"]
    check: Callable[[list[str]], None] = lambda tasks: None
    solves: Callable[[str], bool] = lambda task: True

    def require(self, tasks: list[str]) -> None:
        """Checks that the simulator and the tasks' files are installed."""
        require_package(self.package, extra=self.extra, import_name=self.import_name)
        self.check(tasks)

    def make_env(self, task: str, image_size: tuple[int, int]) -> "gym.Env":
        """Makes the environment of a task with images of a height and width in pixels."""
        return self.make(importlib.import_module(self.environment), task, image_size)

    def record(
        self, env: "gym.Env", *, task: str, seed: int, episode: int, steps_after_success: int
    ) -> Demonstration:
        """Records one demonstration; see `demonstrations.record_demonstration`.

        Args:
            env: The environment that `make_env` has made, whose episode length limits an attempt.
            task: Name of the task.
            seed: Seed of the dataset.
            episode: Number of the episode within its task, which selects the noise level.
            steps_after_success: Steps recorded after the task is solved.
        """
        expert = importlib.import_module(self.expert)
        attempt = functools.partial(expert.attempt, env, steps_after_success)
        return record_demonstration(
            attempt, task=task, seed=seed, episode=episode, noise_stds=expert.NOISE_STDS
        )

    def start_expert(
        self, env: "gym.Env", observation: dict[str, Any]
    ) -> Callable[[dict[str, Any]], "np.ndarray"]:
        """What acts on observations, for an environment that was just reset and its first observation."""
        return importlib.import_module(self.expert).start_expert(env, observation)


SOURCES = {
    "metaworld": DemonstrationSource(
        env_type="metaworld_fast",
        package="metaworld",
        import_name="metaworld",
        extra="metaworld",
        environment="lerobot_lara.envs.metaworld_fast",
        expert="lerobot_lara.envs.metaworld_expert",
        robot_type="sawyer",
        fps=metaworld.MetaworldFastEnvConfig.fps,
        cameras=(OBS_IMAGE,),
        state_names=("x", "y", "z", "gripper"),
        action_names=("dx", "dy", "dz", "gripper"),
        image_size=(128, 128),
        steps_after_success=10,
        tasks=metaworld.resolve_tasks,
        instruction=lambda task: metaworld.task_descriptions()[task],
        make=lambda module, task, size: module.MetaworldFastEnv(task, image_size=size[0]),
    ),
    "simpler": DemonstrationSource(
        env_type="simpler",
        package="mani_skill",
        import_name="mani_skill",
        extra="simpler",
        environment="lerobot_lara.envs.simpler",
        expert="lerobot_lara.envs.simpler_expert",
        robot_type="widowx",
        fps=simpler.SimplerEnvConfig.fps,
        cameras=(OBS_IMAGE,),
        state_names=simpler.STATE_NAMES,
        action_names=simpler.ACTION_NAMES,
        image_size=(192, 256),
        steps_after_success=3,
        tasks=simpler.resolve_tasks,
        instruction=lambda task: simpler.TASKS[task].instruction,
        make=lambda module, task, size: module.SimplerEnv(
            task, image_height=size[0], image_width=size[1], end_on_success=False
        ),
        check=simpler.check_assets,
    ),
    "libero": DemonstrationSource(
        env_type="libero_fast",
        package="hf-libero",
        import_name="libero",
        extra="libero",
        environment="lerobot_lara.envs.libero_fast",
        expert="lerobot_lara.envs.libero_expert",
        robot_type="panda",
        fps=libero.LiberoFastEnvConfig.fps,
        cameras=(f"{OBS_IMAGES}.image", f"{OBS_IMAGES}.image2"),
        state_names=libero.STATE_NAMES,
        action_names=libero.ACTION_NAMES,
        image_size=(128, 128),
        steps_after_success=5,
        tasks=libero.resolve_tasks,
        instruction=libero.instruction,
        make=lambda module, task, size: module.LiberoFastEnv(
            task, observation_height=size[0], observation_width=size[1]
        ),
        check=libero.check_expert,
        solves=lambda task: task.startswith(libero.EXPERT_SUITES),
    ),
}
"""By the value of `--env`."""


def source_of(env_type: str) -> DemonstrationSource | None:
    """The source whose environment has a type of LeRobot; None if there is none."""
    return next((source for source in SOURCES.values() if source.env_type == env_type), None)
