"""LARA for LeRobot: robot policies that also learn from video without action labels.

Importing this package registers its policy types and its environments with LeRobot, and lets `lerobot-train` take a
mixture file as its dataset; models are imported when they are built.
"""

from lerobot_lara.alignment import bases as _bases  # noqa: F401  registers the aligned policies of LeRobot
from lerobot_lara.configuration_lara import LaraConfig
from lerobot_lara.data.mixture import lerobot_hook
from lerobot_lara.dit.configuration_lara_dit import LaraDiTConfig
from lerobot_lara.dit.processor_lara_dit import LaraTokenizerProcessorStep
from lerobot_lara.envs.configuration_libero_fast import LiberoFastEnvConfig
from lerobot_lara.envs.configuration_metaworld_fast import MetaworldFastEnvConfig
from lerobot_lara.envs.configuration_simpler import SimplerEnvConfig
from lerobot_lara.envs.configuration_vla_eval import VlaEvalEnvConfig
from lerobot_lara.groot_n16.configuration_groot_n16 import GrootN16Config
from lerobot_lara.groot_n16.processor_groot_n16 import (
    GrootN16NormalizerProcessorStep,
    GrootN16PromptProcessorStep,
)
from lerobot_lara.lam.configuration_lara_lam import LaraLAMConfig
from lerobot_lara.moto_gpt.configuration_moto_gpt import MotoGPTConfig

__all__ = [
    "GrootN16Config",
    "GrootN16NormalizerProcessorStep",
    "GrootN16PromptProcessorStep",
    "LaraConfig",
    "LaraDiTConfig",
    "LaraLAMConfig",
    "LaraTokenizerProcessorStep",
    "LiberoFastEnvConfig",
    "MetaworldFastEnvConfig",
    "MotoGPTConfig",
    "SimplerEnvConfig",
    "VlaEvalEnvConfig",
]

lerobot_hook.install()
