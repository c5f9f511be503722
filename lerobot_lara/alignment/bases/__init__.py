"""Policies that can be aligned, one short file each; `CONTRIBUTING.md` tells what such a file holds.

Importing this package registers their types with LeRobot.
"""

from lerobot_lara.alignment.bases.evo1 import LaraEvo1Config
from lerobot_lara.alignment.bases.groot import LaraGrootConfig
from lerobot_lara.alignment.bases.groot_n16 import LaraGrootN16Config
from lerobot_lara.alignment.bases.multi_task_dit import LaraMultiTaskDiTConfig
from lerobot_lara.alignment.bases.pi0 import LaraPI0Config
from lerobot_lara.alignment.bases.pi05 import LaraPI05Config
from lerobot_lara.alignment.bases.smolvla import LaraSmolVLAConfig
from lerobot_lara.alignment.bases.vla_jepa import LaraVLAJEPAConfig
from lerobot_lara.alignment.bases.wall_x import LaraWallXConfig
from lerobot_lara.alignment.bases.xvla import LaraXVLAConfig

BASES = (
    LaraSmolVLAConfig,
    LaraPI0Config,
    LaraPI05Config,
    LaraGrootConfig,
    LaraGrootN16Config,
    LaraMultiTaskDiTConfig,
    LaraXVLAConfig,
    LaraVLAJEPAConfig,
    LaraEvo1Config,
    LaraWallXConfig,
)

__all__ = ["BASES", *(config.__name__ for config in BASES)]
