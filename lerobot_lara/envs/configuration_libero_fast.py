"""The environment type `libero_fast`: LeRobot's LIBERO with cheap rendering, without downloads and questions.

The simulator is imported only when environments are created, so registering the type costs nothing.
"""

import functools
from dataclasses import dataclass

import gymnasium as gym
from lerobot.envs.configs import EnvConfig
from lerobot.envs.configs import LiberoEnv as LiberoEnvConfig
from lerobot.utils.import_utils import require_package

from lerobot_lara.envs.task_names import split_task_names

SUITES = {"libero_spatial": 10, "libero_object": 10, "libero_goal": 10, "libero_10": 10, "libero_90": 90}
"""Number of tasks of each suite."""
EXPERT_SUITES = ("libero_spatial", "libero_object")
"""Suites of the scripted expert."""
STATE_NAMES = ("x", "y", "z", "rx", "ry", "rz", "left_finger", "right_finger")
ACTION_NAMES = ("x", "y", "z", "rx", "ry", "rz", "gripper")


def resolve_tasks(task: str) -> dict[str, list[str]]:
    """Expands a comma-separated list of suites, such as "libero_spatial", and tasks, such as "libero_spatial_3".

    Returns:
        Name as given -> task names: the task itself, or all tasks of a suite in their order.

    Raises:
        ValueError: No task is given, or one is given twice or is unknown, in which case close matches are listed.
    """
    tasks = {suite: [f"{suite}_{number}" for number in range(count)] for suite, count in SUITES.items()}
    known = [*tasks, *(name for names in tasks.values() for name in names)]
    return {
        name: tasks.get(name, [name]) for name in split_task_names(task, known, kind="LIBERO suite or task")
    }


def instruction(task: str) -> str:
    """What the robot is told in a task, such as libero_spatial_3."""
    from lerobot_lara.envs.libero_assets import prepare_libero

    prepare_libero()
    from libero.libero import benchmark

    suite, _, number = task.rpartition("_")
    return benchmark.get_benchmark_dict()[suite]().get_task(int(number)).language


def check_expert(tasks: list[str]) -> None:
    """Checks that the scripted expert is made for the tasks.

    Raises:
        ValueError: A task belongs to another suite.
    """
    other = [task for task in tasks if not task.startswith(EXPERT_SUITES)]
    if other:
        raise ValueError(
            f"`tasks` has {other[0]!r}; the scripted expert picks and places, in {' and '.join(EXPERT_SUITES)}."
        )


@EnvConfig.register_subclass("libero_fast")
@dataclass
class LiberoFastEnvConfig(LiberoEnvConfig):
    """LIBERO without shadows, multisampling, reflections and the rebuilding of the scene at every reset.

    Only the rendering and the resets differ from LeRobot's `libero`: observations, actions and limits are the same. A
    seed selects the starting state `seed % 50` of the task's fifty, and where LIBERO puts what does not move, so that
    all policies meet the same.

    Attributes:
        task: Suites, or single tasks such as libero_spatial_3, separated by commas.
        hard_reset: Rebuild the scene at every reset, as LeRobot's `libero` does.
        observation_height: Height of both images in pixels.
        observation_width: Width of both images in pixels.
    """

    task: str = "libero_spatial"
    hard_reset: bool = False
    observation_height: int = 256
    observation_width: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        resolve_tasks(self.task)
        if not self.init_states or self.is_libero_plus:
            raise ValueError(
                "`init_states` must be true and `is_libero_plus` false: `libero_fast` starts from LIBERO's own states. "
                "Use --env.type=libero or libero_plus for others."
            )
        for name in ("episode_length", "observation_height", "observation_width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` is {value}; it must be at least 1. Pass --env.{name}=...")
        if self.task_ids is not None and any(
            "_".join(name.split("_")[:2]) != name for name in self.task.split(",")
        ):
            raise ValueError(
                "`task_ids` is for whole suites; `task` names single tasks. Leave `task_ids` out."
            )

    def create_envs(
        self, n_envs: int, use_async_envs: bool = False
    ) -> dict[str, dict[int, gym.vector.VectorEnv]]:
        """Creates a vector environment for each task: name as given -> index of the task in its suite -> environment.

        Raises:
            ValueError: Files are missing, or `task_ids` names tasks that the suite does not have.
        """
        require_package("hf-libero", extra="libero", import_name="libero")
        from lerobot_lara.envs.libero_fast import LiberoFastEnv
        from lerobot_lara.envs.vector_env import make_vector_env

        settings = {
            "observation_height": self.observation_height,
            "observation_width": self.observation_width,
            "episode_length": self.episode_length,
            "control_mode": self.control_mode,
            "obs_type": self.obs_type,
            "camera_name": self.camera_name,
            "camera_name_mapping": self.camera_name_mapping,
            "hard_reset": self.hard_reset,
            "control_freq": self.fps,
        }
        return {
            given: {
                int(name.rpartition("_")[2]): make_vector_env(
                    [functools.partial(LiberoFastEnv, name, **settings)] * n_envs,
                    use_async_envs=use_async_envs,
                    module=LiberoFastEnv.__module__,
                )
                for name in self._chosen(names)
            }
            for given, names in resolve_tasks(self.task).items()
        }

    def _chosen(self, names: list[str]) -> list[str]:
        """The tasks of a suite that `task_ids` leaves."""
        if self.task_ids is None:
            return names
        unknown = [number for number in self.task_ids if not 0 <= number < len(names)]
        if unknown:
            raise ValueError(f"`task_ids` has {unknown[0]}; the suite has tasks 0 to {len(names) - 1}.")
        return [names[number] for number in sorted(set(self.task_ids))]
