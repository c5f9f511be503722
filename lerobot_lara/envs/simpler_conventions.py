"""Actions and states of SIMPLER's robots, as its benchmark in vla-eval exchanges them and as datasets record them.

Policies that are trained on the Open X-Embodiment datasets of these robots predict a displacement of the hand as x, y,
z and roll, pitch, yaw, and how far the gripper is to be open. The simulator takes the rotation as a rotation vector,
and the gripper in the robot's own way.
"""

from typing import Protocol

import numpy as np
from scipy.spatial.transform import Rotation

TOP_DOWN = Rotation.from_matrix([[0, 0, 1], [0, 1, 0], [-1, 0, 0]])
"""The hand's orientation that BridgeData's states count as zero: the gripper points down."""
STATE_DIM = 8
ACTION_DIM = 7
STICKY_STEPS = 15


class Convention(Protocol):
    """What stands between a policy and a benchmark for one episode.

    Attributes:
        state_dim: Size of the states that the policy reads.
        fps: Control steps per second of the benchmark.
    """

    state_dim: int
    fps: int

    def reset(self) -> None:
        """Forgets the episode; also called when its instruction changes."""

    def state(self, states: np.ndarray) -> np.ndarray:
        """Converts the benchmark's state to the policy's, (state_dim,) float32."""

    def action(self, action: np.ndarray) -> np.ndarray:
        """Converts the policy's action to the benchmark's, (7,) float32."""


class WidowXConvention:
    """The four WidowX tasks, whose policies are trained on BridgeData V2.

    Args of the benchmark in vla-eval: `send_state: true`, and `gripper_mode: binary`, which is its default.
    """

    state_dim = 8
    fps = 5

    def reset(self) -> None:
        """Does nothing: no step depends on those before."""

    def state(self, states: np.ndarray) -> np.ndarray:
        """Converts the hand's pose and the gripper's opening.

        Args:
            states: (8,) x, y, z in meters, rotation as quaternion w, x, y, z, and opening in [0, 1], in the frame of
                the robot's base.

        Returns:
            (8,) float32, as BridgeData V2 has it; see `bridge_state`.

        Raises:
            ValueError: `states` is not eight finite numbers with a quaternion of length 1.
        """
        states = _checked("states", states, STATE_DIM)
        return bridge_state(states[:3], _unit_quaternion(states[3:7]), float(states[7]))

    def action(self, action: np.ndarray) -> np.ndarray:
        """Converts one action.

        Args:
            action: (7,) displacement x, y, z in meters, roll, pitch, yaw in radians about fixed axes, and the opening
                to reach: 1 is open and 0 closed.

        Returns:
            (7,) float32: x, y, z, rotation vector in radians, and the opening, which the benchmark rounds.

        Raises:
            ValueError: `action` is not seven finite numbers.
        """
        action = _checked("action", action, ACTION_DIM)
        return np.concatenate([action[:3], rotation_vector(action[3:6]), action[6:]]).astype(np.float32)


class GoogleRobotConvention:
    """The Google robot's tasks (coke can, pick object, move near, drawers), for policies trained on RT-1's data.

    The robot's gripper is moved by differences: +1 closes it, -1 opens it. A policy says how far it is to be open, so
    that a change from one step to the next is sent, and a large one (more than half) is repeated for 15 steps in all,
    as the gripper needs that long to close. SIMPLER's own policies do the same.

    Args of the benchmark in vla-eval: `send_state: true` and `gripper_mode: sticky`. The benchmark then computes
    1 - 2 g of the number g that it gets, so g here is (1 - difference) / 2; its own repetition coincides with this one.
    """

    state_dim = 8
    fps = 3

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets the previous opening and a repetition that is under way."""
        self._previous: float | None = None
        self._repeated = 0.0
        self._steps_left = 0

    def state(self, states: np.ndarray) -> np.ndarray:
        """Converts the hand's pose and the gripper's opening.

        Args:
            states: (8,) x, y, z in meters, rotation as quaternion w, x, y, z, and opening in [0, 1], in the frame of
                the robot's base.

        Returns:
            (8,) float32: x, y, z, quaternion x, y, z, w, and how far the gripper is closed, in [0, 1].

        Raises:
            ValueError: `states` is not eight finite numbers with a quaternion of length 1.
        """
        states = _checked("states", states, STATE_DIM)
        w, *xyz = _unit_quaternion(states[3:7])
        return np.array([*states[:3], *xyz, w, 1 - states[7]], dtype=np.float32)

    def action(self, action: np.ndarray) -> np.ndarray:
        """Converts the next action of the episode.

        Args:
            action: (7,) displacement x, y, z in meters, roll, pitch, yaw in radians about fixed axes, and the opening
                to reach: 1 is open and 0 closed.

        Returns:
            (7,) float32: x, y, z, rotation vector in radians, and (1 - difference) / 2 of the gripper.

        Raises:
            ValueError: `action` is not seven finite numbers.
        """
        action = _checked("action", action, ACTION_DIM)
        gripper = (1 - self._difference(float(action[6]))) / 2
        return np.concatenate([action[:3], rotation_vector(action[3:6]), [gripper]]).astype(np.float32)

    def _difference(self, opening: float) -> float:
        """How much the gripper closes in this step, in [-1, 1] for openings in [0, 1]."""
        difference = 0.0 if self._previous is None else self._previous - opening
        self._previous = opening
        if self._steps_left == 0 and abs(difference) > 0.5:
            self._repeated, self._steps_left = difference, STICKY_STEPS
        if self._steps_left == 0:
            return difference
        self._steps_left -= 1
        return self._repeated


CONVENTIONS: dict[str, type[Convention]] = {
    "simpler_google": GoogleRobotConvention,
    "simpler_widowx": WidowXConvention,
}


def make_convention(name: str) -> Convention:
    """Makes the convention of a name.

    Raises:
        ValueError: There is none of this name.
    """
    if name not in CONVENTIONS:
        raise ValueError(
            f"`convention` is {name!r}; it must be one of {', '.join(CONVENTIONS)}, or left out."
        )
    return CONVENTIONS[name]()


def rotation_vector(angles: np.ndarray) -> np.ndarray:
    """Converts roll, pitch, yaw (3,) about fixed axes, in radians, to the rotation vector (3,), axis times angle."""
    return Rotation.from_euler("xyz", angles).as_rotvec()


def bridge_state(position: np.ndarray, quaternion: np.ndarray, opening: float) -> np.ndarray:
    """Writes the hand's pose as BridgeData V2 does.

    Args:
        position: x, y, z in meters, in the frame of the robot's base.
        quaternion: Orientation w, x, y, z, in the same frame.
        opening: Of the gripper, 0 closed to 1 open; beyond that it is clipped.

    Returns:
        (8,) float32: x, y, z; roll, pitch, yaw in radians, zero when the gripper points down; 0; and the opening.
    """
    orientation = Rotation.from_quat(quaternion, scalar_first=True) * TOP_DOWN.inv()
    state = [*position, *orientation.as_euler("xyz"), 0.0, np.clip(opening, 0, 1)]
    return np.array(state, dtype=np.float32)


def _checked(field: str, values: np.ndarray, size: int) -> np.ndarray:
    """The values as (size,) float64."""
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (size,) or not np.isfinite(array).all():
        raise ValueError(
            f"`{field}` is {np.array2string(array, threshold=16)} of shape {array.shape}; SIMPLER's convention needs "
            f"{size} finite numbers."
        )
    return array


def _unit_quaternion(quaternion: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(quaternion)
    if abs(length - 1) > 1e-2:
        raise ValueError(
            f"`states` has the quaternion {quaternion} of length {length:.3g}; it must be 1. The benchmark must send "
            "x, y, z, quaternion w, x, y, z, and opening: pass `send_state: true`."
        )
    return quaternion / length
