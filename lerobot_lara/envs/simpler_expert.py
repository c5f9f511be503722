"""Demonstrations of SIMPLER's WidowX tasks by a scripted expert, which knows where the objects are.

The hand passes waypoints above and at the object and the target; each step goes straight to the next one, at most
`STEP` far. The starting positions are drawn from the area of SIMPLER's grid, so that no demonstration shows one of the
24 on which policies are evaluated.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from lerobot.utils.constants import OBS_IMAGE
from scipy.spatial.transform import Rotation

from lerobot_lara.envs.demonstrations import Frame
from lerobot_lara.envs.simpler import SimplerEnv

STEP = 0.03
"""Longest displacement of a step, in meters."""
TURN = 0.25
"""Largest rotation of a step about the vertical, in radians."""
NEAR = 0.008
"""Distance at which a waypoint counts as reached, in meters; the arm lags behind what it is asked for."""
PATIENCE = 12
"""Steps after which a waypoint is given up."""
HOVER = 0.07
"""Height above the object and the target at which the hand travels, in meters."""
FINGER_STEPS = 4
"""Steps that closing or opening the gripper takes."""
LEAST_DISTANCE = 0.1
"""Between the object and the target at the start, in meters."""
NOISE_STDS = (0.0, 0.004)
"""Standard deviations of the noise on executed displacements in meters; episodes take them in turn."""


@dataclass(frozen=True)
class Grasp:
    """How a task's object is taken and let go; lengths in meters.

    Attributes:
        height: Of the hand above the object's origin when it closes.
        drop: Height of the object's origin above the target's when it is let go.
        aligned: Whether the fingers close across the object's x axis, its longest.
        along: Where on that axis the object is taken, from its origin.
    """

    height: float
    drop: float
    aligned: bool = False
    along: float = 0.0


GRASPS = {
    "widowx_carrot_on_plate": Grasp(height=-0.005, drop=0.03, aligned=True),
    "widowx_spoon_on_towel": Grasp(height=-0.005, drop=0.025, aligned=True, along=0.02),
    "widowx_stack_cube": Grasp(height=0.0, drop=0.032),
    "widowx_put_eggplant_in_basket": Grasp(height=-0.005, drop=0.06, aligned=True),
}


def start_expert(env: SimplerEnv, observation: dict[str, Any]) -> Callable[[dict[str, Any]], np.ndarray]:
    """Returns what acts in an episode that was just begun: it maps an observation to an action, (7,)."""
    expert = Expert(env, observation["agent_pos"])

    def act(observation: dict[str, Any]) -> np.ndarray:
        action = expert.act(observation["agent_pos"])
        expert.executed(action)
        return action

    return act


def attempt(
    env: SimplerEnv,
    steps_after_success: int,
    generator: np.random.Generator,
    simulator_seed: int,
    noise_std: float,
) -> list[Frame] | None:
    """Makes one attempt at a demonstration; see `demonstrations.record_demonstration`."""
    observation, _ = env.reset(seed=simulator_seed, options={"poses": _draw_poses(env, generator)})
    expert = Expert(env, observation["agent_pos"])
    frames: list[Frame] = []
    success, truncated, remaining = False, False, steps_after_success
    while not truncated and not (success and remaining == 0):
        remaining -= success
        action = expert.act(observation["agent_pos"])
        frames.append(({OBS_IMAGE: observation["pixels"]}, observation["agent_pos"], action))
        executed = action.copy()
        executed[:3] += noise_std * generator.standard_normal(3)
        expert.executed(executed)
        observation, _, _, truncated, info = env.step(executed)
        success = success or info["is_success"]
    return frames if success else None


def _draw_poses(env: SimplerEnv, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Positions, (2, 3), uniform over the area of the grid, and orientations, (2, 4), that the grid has."""
    positions, orientations = env.grid()
    low, high = positions.min(axis=0), positions.max(axis=0)
    while True:
        drawn = generator.uniform(low, high)
        if np.linalg.norm(drawn[0, :2] - drawn[1, :2]) >= LEAST_DISTANCE:
            return drawn, orientations[generator.integers(len(orientations))]


class Expert:
    """Proposes the actions of one episode.

    Args:
        env: The environment, just reset.
        state: The first observation's `agent_pos`.
    """

    def __init__(self, env: SimplerEnv, state: np.ndarray) -> None:
        self._base = env.simulator.agent.robot.pose.sp
        self._object, self._target = list(env.simulator.objs.values())[:2]
        self._grasp = GRASPS[env.task]
        self._asked = np.array([*state[:3], state[5]], dtype=np.float64)
        """x, y, z and yaw of the pose that was last asked for, to which actions add."""
        self._state = state
        self._actions = self._act()

    def act(self, state: np.ndarray) -> np.ndarray:
        """Returns the action, (7,) float32, for the current `agent_pos`."""
        self._state = state
        return next(self._actions)

    def executed(self, action: np.ndarray) -> None:
        """Notes the action that was carried out, which may be another than the one that was proposed."""
        self._asked += [*action[:3], action[5]]

    def _pose(self, actor: Any) -> tuple[np.ndarray, float]:
        """Position in the frame of the robot's base, and the angle of the x axis in its plane."""
        pose = self._base.inv() * actor.pose.sp
        x_axis = Rotation.from_quat(pose.q, scalar_first=True).as_matrix()[:, 0]
        return np.array(pose.p, dtype=np.float64), float(np.arctan2(x_axis[1], x_axis[0]))

    def _act(self) -> Generator[np.ndarray, None, None]:
        grasp = self._grasp
        position, angle = self._pose(self._object)
        # The range ends between the orientations that the tasks have, so that equal scenes are solved alike.
        yaw = (angle + np.pi / 3) % np.pi - np.pi / 3 if grasp.aligned else 0.0
        position = position + grasp.along * np.array([np.cos(angle), np.sin(angle), 0])
        over = position + _up(HOVER)
        yield from self._go(over, yaw, 1.0)
        yield from self._go(position + _up(grasp.height), yaw, 1.0)
        yield from self._hold(yaw, 0.0)
        yield from self._go(over, yaw, 0.0)
        target, _ = self._pose(self._target)
        held, _ = self._pose(self._object)
        offset = self._state[:3] - held  # of the hand from the object, which may have slipped
        place = target + _up(grasp.drop) + offset
        yield from self._go(np.array([*place[:2], max(over[2], place[2] + HOVER / 2)]), yaw, 0.0)
        yield from self._go(place, yaw, 0.0)
        yield from self._hold(yaw, 1.0)
        while True:
            yield from self._go(place + _up(HOVER), yaw, 1.0)
            yield self._step(place + _up(HOVER), yaw, 1.0)

    def _go(self, goal: np.ndarray, yaw: float, gripper: float) -> Generator[np.ndarray, None, None]:
        """Moves until the hand is near the goal, or has had its time."""
        for _ in range(PATIENCE):
            if np.linalg.norm(self._state[:3] - goal) < NEAR:
                return
            yield self._step(goal, yaw, gripper)

    def _hold(self, yaw: float, gripper: float) -> Generator[np.ndarray, None, None]:
        place = self._asked[:3].copy()
        for _ in range(FINGER_STEPS):
            yield self._step(place, yaw, gripper)

    def _step(self, goal: np.ndarray, yaw: float, gripper: float) -> np.ndarray:
        """The action of one step towards a position and yaw."""
        shift = goal - self._asked[:3]
        shift *= min(1.0, STEP / max(float(np.linalg.norm(shift)), 1e-9))
        turn = np.clip(yaw - self._asked[3], -TURN, TURN)
        return np.array([*shift, 0, 0, turn, gripper], dtype=np.float32)


def _up(height: float) -> np.ndarray:
    return np.array([0, 0, height])
