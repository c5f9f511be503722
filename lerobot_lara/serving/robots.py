"""What harnesses send and want for a robot, in the form in which its policies were trained.

The harness's SIMPLER benchmarks run in another Python, with simulators of their own conventions.
"""

import numpy as np

from lerobot_lara.envs.simpler_conventions import StickyGripper, bridge_state, rotation_vector


class AsIs:
    """States and actions as the policy knows them."""

    state_width: int | None = None

    def state(self, state: np.ndarray) -> np.ndarray:
        """The policy's state, (S,), from the harness's."""
        return state

    def actions(self, actions: np.ndarray) -> np.ndarray:
        """The harness's actions, (T, A), from the policy's, all of which are executed."""
        return actions


class SimplerWidowX(AsIs):
    """SIMPLER's WidowX: BridgeData's states and actions.

    The harness sends x, y, z, a quaternion w, x, y, z and the gripper opening, (8,); it wants rotation vectors, and a
    gripper above 0.5 for open.
    """

    state_width = 8

    def state(self, state: np.ndarray) -> np.ndarray:
        """BridgeData's state, (8,); see `bridge_state`."""
        return bridge_state(state[:3], state[3:7], float(state[7]))

    def actions(self, actions: np.ndarray) -> np.ndarray:
        """Actions (T, 7) with rotation vectors instead of roll, pitch and yaw."""
        return np.concatenate([actions[:, :3], rotation_vector(actions[:, 3:6]), actions[:, 6:]], axis=1)


class SimplerGoogleRobot(AsIs):
    """SIMPLER's Google robot: Fractal's states and actions.

    The harness sends x, y, z, a quaternion w, x, y, z and the gripper opening, (8,); Fractal has the quaternion as
    x, y, z, w, and how far the gripper is closed. The harness wants rotation vectors, and relative gripper commands.
    """

    state_width = 8

    def __init__(self) -> None:
        self._gripper = StickyGripper()

    def state(self, state: np.ndarray) -> np.ndarray:
        """Fractal's state, (8,)."""
        w, *xyz = state[3:7]
        return np.array([*state[:3], *xyz, w, 1 - state[7]], dtype=np.float32)

    def actions(self, actions: np.ndarray) -> np.ndarray:
        """Actions (T, 7) with rotation vectors, and -1 to open and 1 to close the gripper."""
        commands = [[self._gripper.command(float(opening))] for opening in actions[:, 6]]
        return np.concatenate([actions[:, :3], rotation_vector(actions[:, 3:6]), commands], axis=1)


ROBOTS: dict[str, type[AsIs]] = {
    "as_is": AsIs,
    "simpler_widowx": SimplerWidowX,
    "simpler_google": SimplerGoogleRobot,
}
"""By the value of `--robot`; one is made for each episode."""
