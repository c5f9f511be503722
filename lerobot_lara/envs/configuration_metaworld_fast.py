"""The environment type `metaworld_fast`: LeRobot's Meta-World at any image size, rendered cheaply on CPU.

The simulator is imported only when environments are created, so that registering the type costs nothing.
"""

import difflib
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


def select_headless_renderer() -> None:
    """Sets `MUJOCO_GL=egl` on a Linux machine without a display, unless the user chose a backend.

    MuJoCo reads the variable when it is imported, and its own default (GLFW) needs a display.
    """
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")


@functools.cache
def task_descriptions() -> dict[str, str]:
    """Returns the instruction of each Meta-World task by name, e.g. "Open a drawer" for drawer-open-v3."""
    return _lerobot_metaworld_tables()["TASK_DESCRIPTIONS"]


def resolve_tasks(task: str) -> dict[str, list[str]]:
    """Expands a comma-separated list of Meta-World tasks and difficulty groups.

    Args:
        task: names such as "drawer-open-v3,reach-v3", or LeRobot's groups "easy", "medium", "hard",
            "very_hard". A leading "metaworld-" is accepted.

    Returns:
        `{name as given: task names}`, one task name per entry but for groups.

    Raises:
        ValueError: no task is given, one is unknown (close matches are listed) or given twice.
    """
    groups = _lerobot_metaworld_tables()["DIFFICULTY_TO_TASKS"]
    names = [name.strip().removeprefix("metaworld-") for name in (task or "").split(",") if name.strip()]
    if not names:
        raise ValueError("task is empty: name one or more Meta-World tasks, e.g. task=drawer-open-v3")
    for name in names:
        if name not in task_descriptions() and name not in groups:
            known = [*task_descriptions(), *groups]
            matches = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(matches)}?" if matches else f"known tasks: {', '.join(known)}"
            raise ValueError(f"task: unknown Meta-World task {name!r}; {hint}")
        if names.count(name) > 1:
            raise ValueError(f"task: {name!r} is given more than once in {task!r}; name each task once")
    return {name: groups.get(name, [name]) for name in names}


@functools.cache
def _lerobot_metaworld_tables() -> dict[str, dict]:
    return json.loads(resources.files("lerobot.envs").joinpath("metaworld_config.json").read_text())


@EnvConfig.register_subclass("metaworld_fast")
@dataclass
class MetaworldFastEnvConfig(EnvConfig):
    """Meta-World with a square image of any size and without shadows, multisampling and reflections.

    Rendering changes, physics does not. Demonstrations and evaluation must use the same settings:
    `lara collect-demos` records through this environment.

    Attributes:
        task: one or more Meta-World tasks or LeRobot's difficulty groups, separated by commas.
        episode_length: steps after which an episode is truncated, at 80 steps per second.
        image_size: height and width in pixels of `observation.image`.
        render_interval: render an observation every this many steps and repeat it in between. Rendering is
            most of a step's cost, so a policy that executes its chunks open loop runs several times faster
            with `render_interval` equal to its `n_action_steps`. Any other policy needs 1.
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
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        image_shape = (self.image_size, self.image_size, 3)
        self.features = {
            "action": PolicyFeature(type=FeatureType.ACTION, shape=(4,)),
            "agent_pos": PolicyFeature(type=FeatureType.STATE, shape=(4,)),
            "pixels": PolicyFeature(type=FeatureType.VISUAL, shape=image_shape),
        }

    @property
    def gym_kwargs(self) -> dict:
        return {
            "image_size": self.image_size,
            "episode_length": self.episode_length,
            "render_interval": self.render_interval,
        }

    def create_envs(
        self, n_envs: int, use_async_envs: bool = False
    ) -> dict[str, dict[int, gym.vector.VectorEnv]]:
        require_package("metaworld", extra="metaworld")
        from lerobot_lara.envs.metaworld_fast import make_vector_env

        return {
            name: {
                index: make_vector_env(task, n_envs, use_async_envs=use_async_envs, **self.gym_kwargs)
                for index, task in enumerate(tasks)
            }
            for name, tasks in resolve_tasks(self.task).items()
        }
