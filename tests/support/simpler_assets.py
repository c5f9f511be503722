"""Tests that need SIMPLER's simulator and its files."""

import importlib.util
from pathlib import Path

import pytest

# Beside the repository. Some of the files are stand-ins, so that figures measured with them are not published ones.
PACK = Path(__file__).parents[3] / "shared" / "data" / "simpler_bridge_assets"


def skip_without_simpler() -> None:
    """Skips the test unless the simulator, its files and a Vulkan driver are there."""
    from lerobot_lara.envs.configuration_simpler import TASKS, check_assets

    if importlib.util.find_spec("mani_skill") is None:
        pytest.skip("needs mani_skill (extra simpler)")
    try:
        check_assets(list(TASKS))
    except ValueError as error:
        pytest.skip(str(error))
    from lerobot_lara.envs.simpler import SimplerEnv

    try:
        SimplerEnv("widowx_carrot_on_plate", image_height=24, image_width=32).reset(seed=0)
    except ValueError as error:
        pytest.skip(str(error))
