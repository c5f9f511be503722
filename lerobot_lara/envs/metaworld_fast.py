"""LeRobot's Meta-World environment with fast rendering, any image size and exact success accounting."""

from typing import Any

import gymnasium as gym
import numpy as np

from lerobot_lara.envs.configuration_metaworld_fast import select_headless_renderer

select_headless_renderer()

from lerobot.envs.metaworld import MetaworldEnv  # noqa: E402  (MuJoCo picks its renderer when imported)


class MetaworldFastEnv(MetaworldEnv):
    """One Meta-World task as seen by a camera, with the robot's state.

    Observations are `pixels`, (image_size, image_size, 3) uint8 RGB of camera `corner2`, upright, and `agent_pos`,
    (4,), the hand's x, y, z in meters and the gripper opening in [0, 1]. Actions are (4,) in [-1, 1]: the hand's
    displacement dx, dy, dz and the gripper effort.

    An episode terminates on success and is truncated after `episode_length` steps. `is_success` is in every `info`, and
    also in `info["final_info"]` when the episode ends, as LeRobot counts an ended episode without it as a success. The
    environment never resets itself, so the last observation and the last frame are those of the ended episode.

    The simulator is created on the first reset, which is inside the worker of an asynchronous vector environment.

    Args:
        task: A Meta-World task name, such as "drawer-open-v3".
        image_size: Height and width of the image, in pixels.
        episode_length: Steps until truncation.
        render_interval: Steps between two new images of the observation, repeated in between; `render()` always
            returns a new one.
    """

    _env: Any

    def __init__(
        self, task: str, *, image_size: int = 128, episode_length: int = 500, render_interval: int = 1
    ) -> None:
        super().__init__(
            task=task,
            obs_type="pixels_agent_pos",
            observation_width=image_size,
            observation_height=image_size,
            visualization_width=image_size,
            visualization_height=image_size,
        )
        self.image_size = image_size
        self.render_interval = render_interval
        self._max_episode_steps = episode_length
        self.raw_observation: np.ndarray | None = None  # (39,), privileged: for the scripted expert only
        self._frame: np.ndarray | None = None

    def _ensure_env(self) -> None:
        """Creates the simulator unless it exists."""
        if self._env is None:
            self._create_env()

    def _create_env(self) -> None:
        """Creates the simulator with fast rendering."""
        super()._ensure_env()
        assert self._env is not None
        self._env.max_path_length = self._max_episode_steps
        # MuJoCo reads all of this when it creates the rendering context, at the first frame.
        model = self._env.model
        model.vis.quality.shadowsize = 0
        model.vis.quality.offsamples = 0
        model.mat_reflectance[:] = 0
        model.light_castshadow[:] = 0
        renderer = self._env.mujoco_renderer
        renderer.width = model.vis.global_.offwidth = self.image_size
        renderer.height = model.vis.global_.offheight = self.image_size

    def render(self) -> np.ndarray:
        """Renders the current frame, (image_size, image_size, 3) uint8, at most once per step."""
        if self._frame is None:
            self._ensure_env()
            viewer = self._env.mujoco_renderer.viewer
            if viewer is not None:
                # The rendering context that was created last stays current, so with several environments in a
                # process this one would be drawn with another task's meshes.
                viewer.make_context_current()
            self._frame = super().render().copy()
        return self._frame

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Starts an episode; the same seed gives the same object positions and pixels."""
        self._ensure_env()
        gym.Env.reset(self, seed=seed)
        if seed is not None:
            self._env.seed(seed)
        self.raw_observation, _ = self._env.reset()
        self._frame = None
        self._observed_frame = self.render()
        return self._observation(), {"task": self.task, "is_success": False}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Executes one action, clipped to [-1, 1] by the simulator.

        Raises:
            ValueError: The action is not four finite numbers.
        """
        if np.shape(action) != (4,) or not np.isfinite(action).all():
            raise ValueError(f"`action` is {action}; it must be 4 finite numbers (dx, dy, dz, gripper).")
        self.raw_observation, reward, _, truncated, info = self._env.step(action)
        terminated = bool(info["success"])
        self._frame = None
        if terminated or truncated or self._env.curr_path_length % self.render_interval == 0:
            self._observed_frame = self.render()
        outcome = {"task": self.task, "is_success": terminated}
        info = {**info, **outcome}
        if terminated or truncated:
            info["final_info"] = outcome
        return self._observation(), float(reward), terminated, bool(truncated), info

    def _observation(self) -> dict[str, np.ndarray]:
        """Image and state of the current step."""
        assert self.raw_observation is not None
        return {"pixels": self._observed_frame, "agent_pos": self.raw_observation[:4].copy()}

    def close(self) -> None:
        """Closes the simulator; the next reset creates it again."""
        super().close()
        self._env = None
