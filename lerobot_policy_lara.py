"""The module LeRobot's plugin discovery imports: importing it registers everything in `lerobot_lara`."""

import lerobot_lara  # noqa: F401
