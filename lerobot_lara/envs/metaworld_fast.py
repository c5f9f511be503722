"""LeRobot's Meta-World environment with cheap rendering, any image size and exact success accounting."""

import functools
import multiprocessing
from typing import Any

import gymnasium as gym
import numpy as np
from lerobot.envs.utils import _LazyAsyncVectorEnv, freeze_after_episode_end

from lerobot_lara.envs.configuration_metaworld_fast import select_headless_renderer

select_headless_renderer()

from lerobot.envs.metaworld import MetaworldEnv  # noqa: E402  (MuJoCo picks its renderer when imported)


class MetaworldFastEnv(MetaworldEnv):
    """One Meta-World task seen by a camera, with the robot's state.

    Observations: `pixels`, (image_size, image_size, 3) uint8 RGB of camera `corner2`, upright;
    `agent_pos`, (4,) hand x, y, z in meters and gripper opening in [0, 1].
    Actions: (4,) in [-1, 1], hand displacement dx, dy, dz and gripper effort.

    An episode terminates on success and is truncated after `episode_length` steps. `is_success` is in every
    `info`, and in `info["final_info"]` when the episode ends either way: LeRobot counts an ended episode
    without it as a success. The environment never resets itself, so the last observation and the last
    frame are those of the ended episode.

    The simulator is created on the first reset, hence inside the worker of an asynchronous vector env.

    Args:
        task: a Meta-World task name such as "drawer-open-v3".
        image_size: height and width of the image in pixels.
        episode_length: steps until truncation.
        render_interval: a new image every this many steps, repeated in between (`render()` is always fresh).
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
        if self._env is None:
            self._create_env()

    def _create_env(self) -> None:
        super()._ensure_env()
        assert self._env is not None
        self._env.max_path_length = self._max_episode_steps
        # All of this is read when the rendering context is created, which happens at the first frame.
        model = self._env.model
        model.vis.quality.shadowsize = 0
        model.vis.quality.offsamples = 0
        model.mat_reflectance[:] = 0
        model.light_castshadow[:] = 0
        renderer = self._env.mujoco_renderer
        renderer.width = model.vis.global_.offwidth = self.image_size
        renderer.height = model.vis.global_.offheight = self.image_size

    def render(self) -> np.ndarray:
        """Returns the current frame, (image_size, image_size, 3) uint8; rendered once per step at most."""
        if self._frame is None:
            self._ensure_env()
            viewer = self._env.mujoco_renderer.viewer
            if viewer is not None:
                # Gymnasium leaves the context created last current: with several environments in a process
                # this one would be drawn with another task's meshes.
                viewer.make_context_current()
            self._frame = super().render().copy()
        return self._frame

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Starts an episode; equal seeds give equal object positions and pixels."""
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
            ValueError: the action is not four finite numbers.
        """
        if np.shape(action) != (4,) or not np.isfinite(action).all():
            raise ValueError(f"action must be 4 finite numbers (dx, dy, dz, gripper), got {action}")
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
        assert self.raw_observation is not None
        return {"pixels": self._observed_frame, "agent_pos": self.raw_observation[:4].copy()}

    def close(self) -> None:
        super().close()
        self._env = None


def make_vector_env(
    task: str, n_envs: int, *, use_async_envs: bool = False, **kwargs: Any
) -> gym.vector.VectorEnv:
    """Builds `n_envs` copies of one task, in worker processes if asked for.

    A copy whose episode has ended idles until LeRobot starts the next rollout, instead of playing and
    rendering episodes that nobody counts.

    Args:
        task: a Meta-World task name.
        n_envs: number of copies, stepped together.
        use_async_envs: one process per copy (for `n_envs > 1`), started at the first reset.
        **kwargs: passed to `MetaworldFastEnv`.
    """
    make_one = functools.partial(MetaworldFastEnv, task, **kwargs)
    if use_async_envs and n_envs > 1:
        # The workers fork from a server that has imported this module once: an import takes seconds.
        multiprocessing.set_forkserver_preload(["__main__", __name__])
        return _LazyAsyncVectorEnv([make_one] * n_envs)
    return gym.vector.SyncVectorEnv([freeze_after_episode_end(make_one)] * n_envs)
