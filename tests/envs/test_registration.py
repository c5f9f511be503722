"""The environment types are known without their simulators, which take seconds to import."""

import subprocess
import sys

import pytest

SIMULATORS = {"mujoco", "metaworld", "mani_skill", "sapien", "libero", "robosuite", "vla_eval"}
TYPES = {"metaworld_fast", "simpler", "libero_fast", "vla_eval"}


@pytest.mark.e2e
def test_registering_the_types_imports_no_simulator():
    code = (
        "import sys, lerobot_lara; from lerobot.envs.configs import EnvConfig; "
        "print(*EnvConfig.get_known_choices(), '|', *sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    types, modules = (set(part.split()) for part in told.split("|"))
    assert types >= TYPES
    assert not modules & SIMULATORS
