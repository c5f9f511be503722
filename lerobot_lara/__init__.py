"""LARA for LeRobot: robot policies that also learn from video without action labels.

Importing this package registers its policy types and its environment with LeRobot; models are imported when
they are built.
"""

from lerobot_lara.configuration_lara import LaraConfig
from lerobot_lara.dit.configuration_lara_dit import LaraDiTConfig

__all__ = ["LaraConfig", "LaraDiTConfig"]
