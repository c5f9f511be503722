"""Demonstrations of LIBERO-Spatial and LIBERO-Object by a scripted expert, which knows where the objects are.

The hand passes waypoints above and at the object and the target, pointing down all the time. A bowl is taken by its
rim, between the fingers, and everything else by its middle.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lerobot.processor.env_processor import LiberoProcessorStep
from lerobot.utils.constants import OBS_IMAGES, OBS_PREFIX, OBS_STATE
from scipy.spatial.transform import Rotation

from lerobot_lara.envs.demonstrations import Frame
from lerobot_lara.envs.libero_fast import LiberoFastEnv

CAMERAS = {"image": f"{OBS_IMAGES}.image", "image2": f"{OBS_IMAGES}.image2"}
REACH = 0.05
"""Displacement of an action of 1, in meters; the robot's controller has it so."""
GAIN = 0.6
"""Share of the way to a waypoint that one action asks for."""
NEAR = 0.012
"""Distance at which a waypoint counts as reached, in meters."""
PATIENCE = 60
"""Steps after which a waypoint is given up."""
FINGER_STEPS = 14
"""Steps that closing or opening the gripper takes."""
HOVER = 0.14
"""Height above the object and the target at which the hand travels, in meters."""
NOISE_STDS = (0.0, 0.1)
"""Standard deviations of the noise on executed displacements, in actions; episodes take them in turn."""
OPEN, CLOSED = -1.0, 1.0


@dataclass(frozen=True)
class Grasp:
    """How an object is taken and let go; lengths in meters.

    Attributes:
        side: From the object's middle to where the hand takes it, along the fingers' axis.
        height: Of the hand above the object's origin when it closes.
        drop: Height of the object's origin above the target's when it is let go.
        lift: Height by which it is lifted to be carried.
    """

    side: float
    height: float
    drop: float
    lift: float


BOWL = Grasp(side=0.05, height=0.035, drop=0.05, lift=0.14)
THING = Grasp(side=0.0, height=0.0, drop=0.15, lift=0.24)  # over the wall of the basket


def start_expert(env: LiberoFastEnv, observation: dict[str, Any]) -> Callable[[dict[str, Any]], np.ndarray]:
    """Returns what acts in an episode that was just begun: it maps an observation to an action, (7,) in [-1, 1].

    It looks at the simulator's state instead of the observation.
    """
    expert = Expert(env)
    return lambda observation: expert.act()


class Expert:
    """Proposes the actions of one episode.

    Args:
        env: The environment, just reset.
    """

    def __init__(self, env: LiberoFastEnv) -> None:
        self._env = env
        self._object, self._target = env.simulator.obj_of_interest[:2]
        self._grasp = BOWL if "bowl" in self._object else THING
        self._down = self._orientation()
        self._actions = self._act()

    def act(self) -> np.ndarray:
        """Returns the next action, (7,) float32."""
        return next(self._actions)

    def _position(self, name: str) -> np.ndarray:
        """Where an object is, in meters."""
        sim = self._env.simulator.sim
        return np.array(sim.data.body_xpos[self._env.simulator.obj_body_id[name]])

    def _hand(self) -> np.ndarray:
        return np.array(self._env.raw_observation["robot0_eef_pos"])

    def _orientation(self) -> Rotation:
        return Rotation.from_quat(self._env.raw_observation["robot0_eef_quat"])

    def _act(self) -> Generator[np.ndarray, None, None]:
        grasp = self._grasp
        position = self._position(self._object)
        # The side of the rim on which the fingers have room: towards the middle of the table.
        place = position + np.array([0, np.copysign(grasp.side, -position[1]), 0])
        yield from self._go(place + _up(HOVER), OPEN)
        yield from self._go(place + _up(grasp.height), OPEN)
        yield from self._hold(CLOSED)
        lifted = place + _up(grasp.lift + grasp.height)
        yield from self._go(lifted, CLOSED)
        offset = self._hand() - self._position(self._object)
        goal = self._position(self._target) + offset + _up(grasp.drop)
        yield from self._go(np.array([*goal[:2], max(lifted[2], goal[2] + HOVER / 2)]), CLOSED)
        yield from self._go(goal, CLOSED)
        yield from self._hold(OPEN)
        while True:
            yield from self._go(goal + _up(HOVER), OPEN)
            yield self._step(goal + _up(HOVER), OPEN)

    def _go(self, goal: np.ndarray, gripper: float) -> Generator[np.ndarray, None, None]:
        """Moves until the hand is near the goal, or has had its time."""
        for _ in range(PATIENCE):
            if np.linalg.norm(self._hand() - goal) < NEAR:
                return
            yield self._step(goal, gripper)

    def _hold(self, gripper: float) -> Generator[np.ndarray, None, None]:
        place = self._hand()
        for _ in range(FINGER_STEPS):
            yield self._step(place, gripper)

    def _step(self, goal: np.ndarray, gripper: float) -> np.ndarray:
        """The action of one step towards a position, pointing down."""
        shift = GAIN * (goal - self._hand()) / REACH
        turn = (self._down * self._orientation().inv()).as_rotvec()
        return np.clip([*shift, *turn, gripper], -1, 1).astype(np.float32)


def attempt(
    env: LiberoFastEnv,
    steps_after_success: int,
    generator: np.random.Generator,
    simulator_seed: int,
    noise_std: float,
) -> list[Frame] | None:
    """Makes one attempt at a demonstration; see `demonstrations.record_demonstration`."""
    observation, _ = env.reset(seed=simulator_seed, options={"new_placement": True})
    expert = Expert(env)
    frames: list[Frame] = []
    success, ended, remaining = False, False, steps_after_success
    while not ended and not (success and remaining == 0):
        remaining -= success
        action = expert.act()
        # As `lerobot-eval` shows them to policies: turned by 180 degrees, and the state as one vector.
        images = {CAMERAS[name]: image[::-1, ::-1] for name, image in observation["pixels"].items()}
        frames.append((images, flat_state(observation["robot_state"]), action))
        executed = action.copy()
        executed[:3] = np.clip(executed[:3] + noise_std * generator.standard_normal(3), -1, 1)
        observation, _, solved, truncated, _ = env.step(executed)
        success = success or solved
        ended = truncated
    return frames if success else None


def flat_state(state: dict[str, Any]) -> np.ndarray:
    """The state that LeRobot gives to policies, (8,): position, rotation vector, both fingers; meters and radians."""
    # LeRobot's own conversion: its angle is not always the smaller one.
    batch = {
        name: {part: torch.tensor(values)[None] for part, values in parts.items()}
        for name, parts in state.items()
    }
    processed = LiberoProcessorStep()._process_observation({f"{OBS_PREFIX}robot_state": batch})
    return processed[OBS_STATE][0].numpy()


def _up(height: float) -> np.ndarray:
    return np.array([0, 0, height])
