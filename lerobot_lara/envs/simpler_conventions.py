"""How states and actions are written in SIMPLER and in the data that its policies are trained on.

BridgeData V2 and Fractal (Open X-Embodiment) give rotations of actions as roll, pitch, yaw, and the gripper as an
opening; SIMPLER's simulators want rotation vectors, and each robot another gripper command.
"""

import numpy as np
from scipy.spatial.transform import Rotation

TOP_DOWN = Rotation.from_matrix([[0, 0, 1], [0, 1, 0], [-1, 0, 0]])
"""The hand's orientation that BridgeData's states count as zero: the gripper points down."""
STICKY_STEPS = 15
"""Steps for which the Google robot's gripper goes on with a command, as in the authors' evaluations."""


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


def rotation_vector(roll_pitch_yaw: np.ndarray) -> np.ndarray:
    """Converts angles in radians, about the fixed axes in this order, to rotation vectors; (..., 3) both."""
    return Rotation.from_euler("xyz", roll_pitch_yaw).as_rotvec()


class StickyGripper:
    """The gripper rule of SIMPLER's Google robot, whose commands are relative and take several steps.

    A change of the wanted opening by more than a half starts a command, which is then repeated `STICKY_STEPS` times.
    """

    def __init__(self) -> None:
        self._previous: float | None = None
        self._command = 0.0
        self._repeats = 0

    def command(self, opening: float) -> float:
        """The command of one step.

        Args:
            opening: What the policy wants, 0 closed to 1 open.

        Returns:
            From -1 (open) to 1 (close); 0 keeps the gripper as it is.
        """
        change = 0.0 if self._previous is None else self._previous - opening
        self._previous = opening
        if abs(change) > 0.5 and not self._repeats:
            self._command, self._repeats = change, STICKY_STEPS
        if not self._repeats:
            return change
        self._repeats -= 1
        return self._command
