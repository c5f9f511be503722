"""SIMPLER's WidowX tasks in ManiSkill 3, with the conventions of policies that were trained on BridgeData V2."""

import logging
import os
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from lerobot_lara.envs.configuration_simpler import (
    ACTION_NAMES,
    NATIVE_SIZE,
    NUM_STARTS,
    STATE_NAMES,
    TASKS,
    check_assets,
)
from lerobot_lara.envs.simpler_conventions import bridge_state, rotation_vector

_CAMERA = "3rd_view_camera"
_INTRINSICS = np.array([[623.588, 0, 319.501], [0, 623.588, 239.545], [0, 0, 1]])
"""Of the camera at its native size, in pixels."""
_FINGER_RANGE = (0.015, 0.037)  # meters, closed and open
_MOVED = 0.03  # meters; SIMPLER's threshold of "moved"
STAGES = ("grasped", "moved", "on_target")
"""Parts of a task, in `info`: whether each has been true at some step of the episode."""


def use_private_vulkan_driver() -> None:
    """Lets Vulkan find the software renderer that `make setup` unpacks, unless a driver is chosen or there is a GPU.

    Vulkan reads the variable when the simulator is imported.
    """
    driver = Path(sys.prefix) / "share" / "lavapipe" / "icd.json"
    chosen = {"VK_ICD_FILENAMES", "VK_DRIVER_FILES"} & os.environ.keys()
    if driver.is_file() and not chosen and not torch.cuda.is_available():
        os.environ["VK_ICD_FILENAMES"] = str(driver)


class SimplerEnv(gym.Env):
    """One task of SIMPLER, seen by the camera beside the robot.

    Observations are `pixels`, (image_height, image_width, 3) uint8 RGB, and `agent_pos`, (8,) float32: the hand's x, y,
    z in meters in the frame of the robot's base; its roll, pitch and yaw in radians, zero when the gripper points down;
    0; and the gripper opening in [0, 1]. Actions are (7,): displacement x, y, z in meters; rotation roll, pitch, yaw in
    radians, about the fixed axes of the base in this order; and the gripper, open above 0.5 and otherwise closed. They
    add up on the pose that was last asked for, as on the real robot.

    `info` has `is_success`, and `grasped`, `moved` and `on_target`: whether they were true at some step so far.

    The environment never resets itself. The simulator is created on the first reset, which is inside the worker of an
    asynchronous vector environment.

    Args:
        task: A name of `configuration_simpler.TASKS`.
        image_height: Height of the image in pixels.
        image_width: Width of the image in pixels.
        episode_length: Steps until truncation; None is SIMPLER's limit.
        end_on_success: Whether the episode ends at the first step at which the task is solved; otherwise it counts
            whether it is solved at the last step.
        renderer: "cpu", "gpu" or "auto".
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}
    render_mode = "rgb_array"

    def __init__(
        self,
        task: str,
        *,
        image_height: int = NATIVE_SIZE[0],
        image_width: int = NATIVE_SIZE[1],
        episode_length: int | None = None,
        end_on_success: bool = True,
        renderer: str = "auto",
    ) -> None:
        self.task = task
        self.task_description = TASKS[task].instruction
        self._max_episode_steps = episode_length or TASKS[task].max_steps
        self._size = (image_height, image_width)
        self._end_on_success = end_on_success
        self._renderer = renderer
        self._num_resets = 0
        self.simulator: Any = None  # ManiSkill's environment; privileged, for the scripted expert only
        self.observation_space = gym.spaces.Dict(
            {
                "pixels": gym.spaces.Box(0, 255, (image_height, image_width, 3), np.uint8),
                "agent_pos": gym.spaces.Box(-np.inf, np.inf, (len(STATE_NAMES),), np.float32),
            }
        )
        self.action_space = gym.spaces.Box(-np.inf, np.inf, (len(ACTION_NAMES),), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: Selects the starting position `seed % 24`; without it, the positions follow one another.
            options: `episode_id` selects one of the simulator's own positions instead. `poses`, a pair of positions,
                (2, 3) in meters, and orientations, (2, 4) quaternions w, x, y, z, in the world's frame, is where the
                object and the target are put.
        """
        self._ensure_simulator()
        super().reset(seed=seed)
        options = options or {}
        start = self._num_resets if seed is None else seed
        episode_id = options.get("episode_id", start % NUM_STARTS)
        self._num_resets += 1
        positions, orientations = self._grid
        if "poses" in options:
            position, orientation = options["poses"]
            positions = torch.as_tensor(np.asarray(position)[None], dtype=torch.float32)
            orientations = torch.as_tensor(np.asarray(orientation)[None], dtype=torch.float32)
        self.simulator.xyz_configs, self.simulator.quat_configs = positions, orientations
        # Out of the way while the objects settle, as in the original SIMPLER; it would stand where the last episode
        # ended, and that would decide how this one starts.
        self.simulator.agent.robot.set_pose(_far_away())
        observation, _ = self._env.reset(
            seed=start % 2**31, options={"episode_id": torch.tensor([episode_id])}
        )
        self._num_steps = 0
        self._reached = dict.fromkeys(STAGES, False)
        self._starts = self._object_positions()
        return self._convert(observation), self._outcome(False)

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Executes one action.

        Raises:
            ValueError: The action is not seven finite numbers.
        """
        if np.shape(action) != self.action_space.shape or not np.isfinite(action).all():
            raise ValueError(
                f"`action` is {action}; it must be 7 finite numbers ({', '.join(ACTION_NAMES)}), in meters and radians."
            )
        observation, _, _, _, found = self._env.step(_to_simulator(action)[None])
        self._num_steps += 1
        success = bool(found["success"][0])
        self._note_stages(found)
        terminated = success and self._end_on_success
        truncated = not terminated and self._num_steps >= self._max_episode_steps
        info = self._outcome(success)
        if terminated or truncated:
            info["final_info"] = dict(info)
        return self._convert(observation), float(success), terminated, truncated, info

    def render(self) -> np.ndarray:
        """Returns the image of the current observation, (image_height, image_width, 3) uint8."""
        return self._image

    def close(self) -> None:
        """Closes the simulator; the next reset creates it again."""
        if self.simulator is not None:
            self._env.close()
            self.simulator = None

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """The simulator's starting positions, (n, 2, 3) in meters, and orientations, (m, 2, 4), w, x, y, z.

        Each is of the object and the target, in the world's frame; an episode combines one of both.
        """
        self._ensure_simulator()
        positions, orientations = self._grid
        return np.array(positions, dtype=np.float64), np.array(orientations, dtype=np.float64)

    def _ensure_simulator(self) -> None:
        """Creates the simulator unless it exists."""
        if self.simulator is not None:
            return
        check_assets([self.task])
        self._env = _make_simulator(self.task, self._size, self._renderer)
        self.simulator = self._env.unwrapped
        self._grid = (self.simulator.xyz_configs, self.simulator.quat_configs)

    def _object_positions(self) -> np.ndarray:
        """Positions of the objects in meters, (objects, 3); the one that is to be moved is the first."""
        return np.stack([actor.pose.p[0].cpu().numpy() for actor in self.simulator.objs.values()])

    def _note_stages(self, found: dict[str, Any]) -> None:
        """Notes which parts of the task are true at this step."""
        shifts = np.linalg.norm((self._object_positions() - self._starts)[:, :2], axis=1)
        # ManiSkill leaves `moved_correct_obj` at False.
        now = {
            "grasped": bool(found["is_src_obj_grasped"][0]),
            "moved": bool(shifts[0] > _MOVED and (shifts[1:] < shifts[0]).all()),
            "on_target": bool(found["src_on_target"][0]),
        }
        self._reached = {name: self._reached[name] or now[name] for name in STAGES}

    def _outcome(self, success: bool) -> dict[str, Any]:
        return {"task": self.task, "is_success": success, **self._reached}

    def _convert(self, observation: dict[str, Any]) -> dict[str, np.ndarray]:
        """The simulator's observation with this environment's names and conventions."""
        self._image = observation["sensor_data"][_CAMERA]["rgb"][0].cpu().numpy().astype(np.uint8)
        robot = self.simulator.agent.robot
        hand = robot.pose.inv() * robot.links_map["ee_gripper_link"].pose
        closed, opened = _FINGER_RANGE
        opening = (float(robot.qpos[0, -1]) - closed) / (opened - closed)
        state = bridge_state(hand.p[0].cpu().numpy(), hand.q[0].cpu().numpy(), opening)
        return {"pixels": self._image, "agent_pos": state}


def _far_away() -> Any:
    import sapien

    return sapien.Pose([-10, 0, 0])


def _to_simulator(action: np.ndarray) -> np.ndarray:
    """Converts roll, pitch, yaw to a rotation vector, and the gripper to +1 (open) or -1."""
    gripper = 1.0 if action[6] > 0.5 else -1.0
    return np.array([*action[:3], *rotation_vector(action[3:6]), gripper], dtype=np.float32)


def _make_simulator(task: str, size: tuple[int, int], renderer: str) -> gym.Env:
    """Makes ManiSkill's environment with one camera of the given height and width."""
    use_private_vulkan_driver()
    import mani_skill.envs  # noqa: F401  registers its environments
    from mani_skill.envs.tasks.digital_twins.base_env import BaseDigitalTwinEnv
    from mani_skill.utils.logging_utils import logger

    logger.setLevel(logging.ERROR)  # it warns about properties of its own scenes
    # ManiSkill 3.0.1 keeps these in the class and changes them, so that the scenes of a process would mix.
    BaseDigitalTwinEnv._objects_to_remove_from_greenscreen = []
    BaseDigitalTwinEnv._rgb_overlay_images = {}
    scale = np.diag([size[1] / NATIVE_SIZE[1], size[0] / NATIVE_SIZE[0], 1])
    device = "gpu" if renderer == "gpu" or (renderer == "auto" and torch.cuda.is_available()) else "cpu"
    try:
        env = gym.make(
            TASKS[task].simulator_id,
            obs_mode="rgb+segmentation",
            reward_mode="none",
            num_envs=1,
            sim_backend="cpu",
            render_backend=device,
            sensor_configs={"height": size[0], "width": size[1], "intrinsic": scale @ _INTRINSICS},
        )
    except RuntimeError as error:
        if "physical device" not in str(error) and "Vulkan" not in str(error):
            raise
        raise ValueError(
            f"`renderer` is {renderer!r}, and Vulkan finds no device for it ({error}). Without a GPU, Mesa 25 or later "
            "is needed: run `make setup`, or let VK_ICD_FILENAMES name the file of its driver lvp_icd.json."
        ) from error
    instance: Any = env.unwrapped
    instance._rgb_overlay_images = BaseDigitalTwinEnv._rgb_overlay_images
    instance._objects_to_remove_from_greenscreen = []
    BaseDigitalTwinEnv._rgb_overlay_images = {}
    return env
