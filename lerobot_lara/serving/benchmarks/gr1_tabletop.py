"""GR1 tabletop (RoboCasa) as a benchmark of vla-eval, with the groups of GR00T's GR1 embodiment.

This file needs NumPy, Gymnasium and vla-eval, and nothing of this package: it runs in the simulator's own environment.
"""

import importlib
from typing import Any, Dict, List, Optional  # noqa: UP035  as in vla-eval, which runs on Python 3.8

import numpy as np
from vla_eval.benchmarks.base import StepBenchmark, StepResult
from vla_eval.specs import IMAGE_RGB, LANGUAGE, RAW, DimSpec

# Groups of the state and of the action, in the order in which they are concatenated: 29 numbers in all.
GROUPS = {"left_arm": 7, "right_arm": 7, "left_hand": 6, "right_hand": 6, "waist": 3}
SIZE = sum(GROUPS.values())
ENV_ID = "gr1_unified/{}_GR1ArmsAndWaistFourierHands_Env"
INSTRUCTION = "annotation.human.coarse_action"
FPS = 20
MAX_STEPS = 720

ARTICULATED = (
    "PnPCupToDrawerClose",
    "PnPPotatoToMicrowaveClose",
    "PnPMilkToMicrowaveClose",
    "PnPBottleToCabinetClose",
    "PnPWineToCabinetClose",
    "PnPCanToDrawerClose",
)


class GR1TabletopBenchmark(StepBenchmark):
    """Tasks of a GR1 humanoid with Fourier hands at a table, 20 steps per second.

    Observations are `images` with `ego_view`, (256, 256, 3) uint8 RGB, `states`, (29,) float32 joint positions in the
    order of `GROUPS`, and `task_description`. Actions are (29,) in the same order, passed on as they are: the simulator
    takes positions, of which it declares [-1, 1] but some may lie outside.

    An episode succeeds, and ends, when the simulator first says so; it ends without success after `max_steps`.

    Args:
        tasks: Names such as "PnPCupToDrawerClose", or whole ids of Gymnasium.
        camera: Image of the simulator to send: "video.ego_view_pad_res256_freq20" or
            "video.ego_view_bg_crop_pad_res256_freq20", which is cropped; that of the policy's training data.
        send_state: Send `states`.
        seed: Episode i is reset with seed + i.
        max_steps: Length of an episode.
        simulator: Module that registers the environments with Gymnasium.
    """

    def __init__(
        self,
        tasks: Optional[List[str]] = None,  # noqa: UP006, UP045
        camera: str = "video.ego_view_bg_crop_pad_res256_freq20",
        send_state: bool = True,
        seed: int = 0,
        max_steps: int = MAX_STEPS,
        simulator: str = "robocasa_gr1.utils.gym_utils.gymnasium_groot",
    ) -> None:
        super().__init__()
        self.tasks = list(ARTICULATED) if tasks is None else list(tasks)
        self.camera, self.send_state = camera, send_state
        self.seed, self.max_steps, self.simulator = seed, max_steps, simulator
        self._env: Any = None
        self._env_id = ""
        self._succeeded = False

    def get_tasks(self) -> List[Dict[str, Any]]:  # noqa: UP006
        """Lists the tasks by name."""
        return [{"name": name, "suite": "gr1_tabletop"} for name in self.tasks]

    def reset(self, task: Dict[str, Any]) -> Any:  # noqa: UP006
        """Starts an episode of a task; the simulator is created when the task changes."""
        env_id = task["name"] if "/" in task["name"] else ENV_ID.format(task["name"])
        if env_id != self._env_id:
            import gymnasium

            self.cleanup()
            importlib.import_module(self.simulator)
            self._env, self._env_id = gymnasium.make(env_id, enable_render=True), env_id
        self._succeeded = False
        observation, _ = self._env.reset(seed=self.seed + int(task.get("episode_idx", 0)))
        return observation

    def step(self, action: Dict[str, Any]) -> StepResult:  # noqa: UP006
        """Executes one action.

        Raises:
            ValueError: The action is not 29 finite numbers.
        """
        values = np.asarray(action["actions"], dtype=np.float32)
        if values.shape != (SIZE,) or not np.isfinite(values).all():
            raise ValueError(
                f"`actions` has shape {values.shape}; it must be {SIZE} finite numbers: {', '.join(GROUPS)}."
            )
        parts = np.split(values, np.cumsum(list(GROUPS.values()))[:-1])
        groups = {f"action.{name}": part for name, part in zip(GROUPS, parts)}
        observation, reward, terminated, truncated, info = self._env.step(groups)
        self._succeeded = self._succeeded or bool(np.any(info["success"]))
        done = self._succeeded or bool(terminated) or bool(truncated)
        return StepResult(obs=observation, reward=float(reward), done=done, info=dict(info))

    def make_obs(self, raw_obs: Any, task: Dict[str, Any]) -> Dict[str, Any]:  # noqa: UP006
        """Converts an observation of the simulator."""
        observation = {
            "images": {"ego_view": np.ascontiguousarray(raw_obs[self.camera])},
            "task_description": str(raw_obs[INSTRUCTION]),
        }
        if self.send_state:
            groups = [np.ravel(raw_obs[f"state.{name}"]) for name in GROUPS]
            observation["states"] = np.concatenate(groups).astype(np.float32)
        return observation

    def get_step_result(self, step_result: StepResult) -> Dict[str, Any]:  # noqa: UP006
        """Success, and whether a wrong object was grasped."""
        return {
            "success": self._succeeded,
            "grasped_distractor": bool(step_result.info.get("grasp_distractor_obj", False)),
        }

    def get_metadata(self) -> Dict[str, Any]:  # noqa: UP006
        """The length of an episode, and the rate of control."""
        return {"max_steps": self.max_steps, "fps": FPS}

    def get_action_spec(self) -> Dict[str, DimSpec]:  # noqa: UP006
        """Positions of the groups, without a convention that vla-eval knows."""
        return {"actions": RAW}

    def get_observation_spec(self) -> Dict[str, DimSpec]:  # noqa: UP006
        """Image and instruction, and the state if it is sent."""
        spec = {"image": IMAGE_RGB, "language": LANGUAGE}
        return {**spec, "state": RAW} if self.send_state else spec

    def cleanup(self) -> None:
        """Closes the simulator."""
        if self._env is not None:
            self._env.close()
        self._env, self._env_id = None, ""
