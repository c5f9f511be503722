"""The environment type `simpler`: SIMPLER's four WidowX tasks, from ManiSkill 3's port of them.

The simulator is imported only when environments are created, so registering the type costs nothing.
"""

import functools
import os
from dataclasses import dataclass, field
from pathlib import Path

import gymnasium as gym
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_IMAGE, OBS_STATE
from lerobot.utils.import_utils import require_package

from lerobot_lara.envs.task_names import split_task_names


@dataclass(frozen=True)
class SimplerTask:
    """What is fixed about a task.

    Attributes:
        simulator_id: The task's name in ManiSkill.
        instruction: What the robot is told.
        max_steps: SIMPLER's limit of an episode.
        photograph: The picture behind the rendered objects, which tells whether the task's files are there.
    """

    simulator_id: str
    instruction: str
    max_steps: int
    photograph: str = "bridge_real_eval_1.png"


TASKS = {
    "widowx_carrot_on_plate": SimplerTask("PutCarrotOnPlateInScene-v1", "put carrot on plate", 60),
    "widowx_spoon_on_towel": SimplerTask("PutSpoonOnTableClothInScene-v1", "put the spoon on the towel", 60),
    "widowx_stack_cube": SimplerTask(
        "StackGreenCubeOnYellowCubeBakedTexInScene-v1", "stack the green block on the yellow block", 60
    ),
    "widowx_put_eggplant_in_basket": SimplerTask(
        "PutEggplantInBasketScene-v1", "put eggplant into yellow basket", 120, "bridge_sink.png"
    ),
}
"""By the names of SIMPLER."""
GROUP = "widowx"
"""The name that stands for all four tasks."""
NUM_STARTS = 24
"""Starting positions of SIMPLER's evaluation, the same for each of its policies."""
STATE_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "pad", "gripper")
ACTION_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
NATIVE_SIZE = (480, 640)
RENDERERS = ("auto", "cpu", "gpu")


def resolve_tasks(task: str) -> dict[str, list[str]]:
    """Expands a comma-separated list of tasks, or "widowx" for all four.

    Returns:
        Name as given -> task names: the task itself, or all tasks of the group.

    Raises:
        ValueError: No task is given, or one is given twice or is unknown, in which case close matches are listed.
    """
    names = split_task_names(task, [*TASKS, GROUP], kind="SIMPLER task or group")
    return {name: list(TASKS) if name == GROUP else [name] for name in names}


def check_assets(tasks: list[str]) -> None:
    """Checks that the files of the tasks are there, for which the simulator would ask on the keyboard.

    Raises:
        ValueError: Something is missing, with the commands that fetch it.
    """
    folder = Path(os.environ.get("MS_ASSET_DIR") or "~/.maniskill").expanduser() / "data"
    scenes = folder / "tasks" / "bridge_v2_real2sim_dataset"
    pictures = [scenes / "real_inpainting" / TASKS[task].photograph for task in tasks]
    needed = [
        ("widowx250s", folder / "robots" / "widowx" / "wx250s.urdf"),
        *(("bridge_v2_real2sim", picture) for picture in pictures),
    ]
    missing = {path: source for source, path in needed if not path.is_file()}
    if missing:
        sources = dict.fromkeys(missing.values())
        commands = " and ".join(f"`python -m mani_skill.utils.download_asset {name} -y`" for name in sources)
        raise ValueError(
            f"SIMPLER's files are missing: {', '.join(map(str, missing))}. Run {commands}, or let the "
            "environment variable MS_ASSET_DIR name the folder whose `data` holds them."
        )


@EnvConfig.register_subclass("simpler")
@dataclass
class SimplerEnvConfig(EnvConfig):
    """SIMPLER's WidowX tasks ("visual matching"): simulated robot and objects in front of a photograph.

    Episode i of a task starts from position i of SIMPLER's grid of 24; a seed selects the position `seed % 24`, so that
    24 episodes in a row, which is what `lerobot-eval --eval.n_episodes=24` plays, visit each of them once.

    Attributes:
        task: One or more tasks separated by commas, or "widowx" for all four.
        fps: Steps per second.
        episode_length: Steps after which an episode is truncated; None is SIMPLER's limit, 60, or 120 for the eggplant.
        image_height: Height of `observation.image` in pixels.
        image_width: Width of it; the whole view is 4:3.
        end_on_success: Whether an episode ends as soon as the task is solved. Otherwise it goes on to its limit, and
            counts if the task is solved at the end, as in SIMPLER's own scripts.
        renderer: "cpu", "gpu", or "auto" for the GPU where PyTorch has one.
        features: Set from the other fields.
        features_map: Names of the features in LeRobot's batches.
    """

    task: str = GROUP
    fps: int = 5
    episode_length: int | None = None
    image_height: int = NATIVE_SIZE[0]
    image_width: int = NATIVE_SIZE[1]
    end_on_success: bool = True
    renderer: str = "auto"
    features: dict[str, PolicyFeature] = field(default_factory=dict)
    features_map: dict[str, str] = field(
        default_factory=lambda: {"action": ACTION, "agent_pos": OBS_STATE, "pixels": OBS_IMAGE}
    )

    def __post_init__(self) -> None:
        resolve_tasks(self.task)
        for name in ("episode_length", "image_height", "image_width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` is {value}; it must be at least 1. Pass --env.{name}=...")
        if self.fps != 5:
            raise ValueError(f"`fps` is {self.fps}; SIMPLER's WidowX is controlled at 5 steps per second.")
        if self.renderer not in RENDERERS:
            raise ValueError(f"`renderer` is {self.renderer!r}; it must be one of {', '.join(RENDERERS)}.")
        self.features = {
            "action": PolicyFeature(type=FeatureType.ACTION, shape=(len(ACTION_NAMES),)),
            "agent_pos": PolicyFeature(type=FeatureType.STATE, shape=(len(STATE_NAMES),)),
            "pixels": PolicyFeature(type=FeatureType.VISUAL, shape=(self.image_height, self.image_width, 3)),
        }

    @property
    def gym_kwargs(self) -> dict:
        """Arguments of the environment."""
        return {
            "image_height": self.image_height,
            "image_width": self.image_width,
            "episode_length": self.episode_length,
            "end_on_success": self.end_on_success,
            "renderer": self.renderer,
        }

    def create_envs(
        self, n_envs: int, use_async_envs: bool = False
    ) -> dict[str, dict[int, gym.vector.VectorEnv]]:
        """Creates a vector environment for each task: name as given -> index within its group -> environment.

        Raises:
            ValueError: Files of the tasks are missing.
        """
        require_package("mani_skill", extra="simpler")
        from lerobot_lara.envs.simpler import SimplerEnv
        from lerobot_lara.envs.vector_env import make_vector_env

        resolved = resolve_tasks(self.task)
        check_assets([task for tasks in resolved.values() for task in tasks])
        return {
            name: {
                index: make_vector_env(
                    [functools.partial(SimplerEnv, task, **self.gym_kwargs)] * n_envs,
                    use_async_envs=use_async_envs,
                    module=SimplerEnv.__module__,
                )
                for index, task in enumerate(tasks)
            }
            for name, tasks in resolved.items()
        }
