"""LeRobot's LIBERO environment with cheap rendering and exact success accounting."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from lerobot_lara.envs.configuration_metaworld_fast import select_headless_renderer
from lerobot_lara.envs.libero_assets import prepare_libero

select_headless_renderer()
prepare_libero()

from lerobot.envs.libero import LiberoEnv, _get_suite  # noqa: E402  (LIBERO reads its folders when imported)
from robosuite.environments.base import MujocoEnv  # noqa: E402


class LiberoFastEnv(LiberoEnv):
    """One LIBERO task. Observations and actions are those of LeRobot's `libero`.

    An episode terminates on success and is truncated after its limit. `is_success` is in every `info`, and also in
    `info["final_info"]` when the episode ends. The environment never resets itself.

    The simulator is created on the first reset, which is inside the worker of an asynchronous vector environment.

    Args:
        name: Suite and number of the task, such as "libero_spatial_3".
        **settings: Those of LeRobot's `LiberoEnv`; `hard_reset` is false unless it is named.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, name: str, **settings: Any) -> None:
        suite_name, _, number = name.rpartition("_")
        suite = _get_suite(suite_name)
        super().__init__(
            suite,
            int(number),
            suite_name,
            **{"obs_type": "pixels_agent_pos", "hard_reset": False, **settings},
        )
        self.name = name
        self.raw_observation: dict[str, Any] = {}  # privileged: for the scripted expert only

    @property
    def simulator(self) -> Any:
        """LIBERO's environment; privileged: for the scripted expert only."""
        assert self._env is not None
        return self._env.env

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: Selects the starting state `seed % 50`, and where LIBERO puts what does not move; without it, the
                states follow one another.
            options: With `new_placement` true, the objects are placed anew by LIBERO's rules, from the seed, and none
                of the starting states is used.
        """
        self._ensure_env()
        self._make_current()
        if seed is not None:
            self.init_state_id = seed
        self._num_steps = 0
        self.init_states = not (options or {}).get("new_placement", False)
        # Where a soft reset leaves them, the fingers would move differently while the scene settles.
        for robot in self.simulator.robots:
            robot.gripper.current_action = np.zeros(robot.gripper.dof)
        with _cheap_rendering():  # a hard reset loads the model again
            observation, _ = super().reset(seed=seed)
        self._keep(observation)
        return observation, {"task": self.name, "is_success": False}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Executes one action.

        Raises:
            ValueError: The action is not seven finite numbers.
        """
        if np.shape(action) != (7,) or not np.isfinite(action).all():
            raise ValueError(
                f"`action` is {action}; it must be 7 finite numbers (displacement, rotation vector, gripper)."
            )
        self._make_current()
        observation, reward, terminated, _, info = super().step(action)
        self._num_steps += 1
        self._keep(observation)
        success = bool(info["is_success"])
        truncated = not terminated and self._num_steps >= self._max_episode_steps
        outcome = {"task": self.name, "is_success": success}
        if terminated or truncated:
            outcome["final_info"] = dict(outcome)
        return observation, float(reward), bool(terminated), truncated, outcome

    def render(self) -> np.ndarray:
        """Returns the main camera's current image, upright."""
        return self._image[::-1, ::-1]

    def close(self) -> None:
        """Ends the simulator; the next reset starts it again."""
        if self._env is not None:
            # MuJoCo frees what the current context has, which may be another environment's.
            self._make_current()
        super().close()

    def _keep(self, observation: dict[str, Any]) -> None:
        self._image = next(iter(observation["pixels"].values()))

    def _format_raw_obs(self, raw_obs: dict[str, Any]) -> dict[str, Any]:
        self.raw_observation = raw_obs
        return super()._format_raw_obs(raw_obs)

    def _ensure_env(self) -> None:
        """Creates the simulator unless it exists."""
        if self._env is None:
            with _cheap_rendering(), _readable_devices():
                super()._ensure_env()

    def _make_current(self) -> None:
        """Makes this environment's rendering context current: that of the last made one would draw its own meshes."""
        self.simulator.sim._render_context_offscreen.gl_ctx.make_current()


@contextmanager
def _readable_devices() -> Iterator[None]:
    """Hides an empty CUDA_VISIBLE_DEVICES ("no GPU"), which robosuite reads as a number."""
    empty = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    if empty:
        del os.environ["CUDA_VISIBLE_DEVICES"]
    try:
        yield
    finally:
        if empty:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""


@contextmanager
def _cheap_rendering() -> Iterator[None]:
    """Changes the models that are loaded meanwhile; MuJoCo reads the settings when it makes a rendering context."""
    initialize = MujocoEnv._initialize_sim

    def initialize_cheaply(self: MujocoEnv, *args: Any, **kwargs: Any) -> None:
        initialize(self, *args, **kwargs)
        model = self.sim.model._model
        model.vis.quality.shadowsize = 0
        model.vis.quality.offsamples = 0
        model.mat_reflectance[:] = 0
        model.light_castshadow[:] = 0

    MujocoEnv._initialize_sim = initialize_cheaply
    try:
        yield
    finally:
        MujocoEnv._initialize_sim = initialize
