"""The environment type `metaworld_fast`: LeRobot's Meta-World at any image size, with fast rendering on the CPU.

The simulator is imported only when environments are created, so registering the type costs nothing.
"""

import functools
import json
import os
import sys
from dataclasses import dataclass, field
from importlib import resources

import gymnasium as gym
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_IMAGE, OBS_STATE
from lerobot.utils.import_utils import require_package

from lerobot_lara.envs.task_names import split_task_names


def select_headless_renderer() -> None:
    """Sets `MUJOCO_GL=egl` on a Linux machine without a display, unless a backend is already chosen.

    MuJoCo reads the variable when it is imported, and its own default (GLFW) needs a display.
    """
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")


@functools.cache
def task_descriptions() -> dict[str, str]:
    """Reads the instruction of each Meta-World task by name, such as "Open a drawer" for drawer-open-v3."""
    return _lerobot_metaworld_tables()["TASK_DESCRIPTIONS"]


def resolve_tasks(task: str) -> dict[str, list[str]]:
    """Expands a comma-separated list of Meta-World tasks and difficulty groups.

    Args:
        task: Names such as "drawer-open-v3,reach-v3", or LeRobot's groups "easy", "medium", "hard" and
            "very_hard". A leading "metaworld-" is accepted.

    Returns:
        Name as given -> task names: the task itself, or all tasks of a group.

    Raises:
        ValueError: No task is given, or one is given twice or is unknown, in which case close matches are listed.
    """
    groups = _lerobot_metaworld_tables()["DIFFICULTY_TO_TASKS"]
    known = [*task_descriptions(), *groups]
    names = split_task_names(task, known, kind="Meta-World task or group", prefix="metaworld-")
    return {name: groups.get(name, [name]) for name in names}


@functools.cache
def _lerobot_metaworld_tables() -> dict[str, dict]:
    """LeRobot's descriptions and difficulty groups of the tasks."""
    return json.loads(resources.files("lerobot.envs").joinpath("metaworld_config.json").read_text())


@EnvConfig.register_subclass("metaworld_fast")
@dataclass
class MetaworldFastEnvConfig(EnvConfig):
    """Meta-World with a square image of any size, and without shadows, multisampling and reflections.

    Only the rendering differs from LeRobot's `metaworld`, not the physics. Demonstrations and evaluation must use the
    same settings; `lara collect-demos` records in this environment.

    Attributes:
        task: One or more Meta-World tasks or LeRobot's difficulty groups, separated by commas.
        fps: Steps per second.
        episode_length: Steps after which an episode is truncated.
        image_size: Height and width of `observation.image`, in pixels.
        render_interval: Steps between two rendered observations; the image is repeated in between. Rendering is most
            of a step's cost, so a policy that executes its chunks open loop runs several times faster with its
            `n_action_steps` here. Any other policy needs 1.
        features: Set from the other fields.
        features_map: Names of the features in LeRobot's batches.
    """

    task: str = "drawer-open-v3"
    fps: int = 80
    episode_length: int = 500
    image_size: int = 128
    render_interval: int = 1
    features: dict[str, PolicyFeature] = field(default_factory=dict)
    features_map: dict[str, str] = field(
        default_factory=lambda: {"action": ACTION, "agent_pos": OBS_STATE, "pixels": OBS_IMAGE}
    )

    def __post_init__(self) -> None:
        resolve_tasks(self.task)
        for name in ("episode_length", "image_size", "render_interval"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"`{name}` is {getattr(self, name)}; it must be at least 1. Pass --env.{name}=..."
                )
        image_shape = (self.image_size, self.image_size, 3)
        self.features = {
            "action": PolicyFeature(type=FeatureType.ACTION, shape=(4,)),
            "agent_pos": PolicyFeature(type=FeatureType.STATE, shape=(4,)),
            "pixels": PolicyFeature(type=FeatureType.VISUAL, shape=image_shape),
        }

    @property
    def gym_kwargs(self) -> dict:
        """Arguments of the environment."""
        return {
            "image_size": self.image_size,
            "episode_length": self.episode_length,
            "render_interval": self.render_interval,
        }

    def create_envs(
        self, n_envs: int, use_async_envs: bool = False
    ) -> dict[str, dict[int, gym.vector.VectorEnv]]:
        """Creates a vector environment for each task: name as given -> index within its group -> environment."""
        require_package("metaworld", extra="metaworld")
        from lerobot_lara.envs.metaworld_fast import MetaworldFastEnv
        from lerobot_lara.envs.vector_env import make_vector_env

        return {
            name: {
                index: make_vector_env(
                    [functools.partial(MetaworldFastEnv, task, **self.gym_kwargs)] * n_envs,
                    use_async_envs=use_async_envs,
                    module=MetaworldFastEnv.__module__,
                )
                for index, task in enumerate(tasks)
            }
            for name, tasks in resolve_tasks(self.task).items()
        }
