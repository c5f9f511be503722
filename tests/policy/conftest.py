"""A checkpoint of each type."""

from pathlib import Path

import pytest
import torch
from support.policies import TINY_LAM, features, make_lara, make_policy

from lerobot_lara.lam.configuration_lara_lam import LaraLAMConfig
from lerobot_lara.lam.modeling_lara_lam import LaraLAMPolicy


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with a checkpoint of each type, by type."""
    torch.manual_seed(0)
    config = LaraLAMConfig(**TINY_LAM, device="cpu", push_to_hub=False, **features(action=0))
    LaraLAMPolicy(config).save_pretrained(tmp_path / "lara_lam")
    make_policy().save_pretrained(tmp_path / "lara_dit")
    make_lara(str(tmp_path / "lara_lam")).save_pretrained(tmp_path / "lara")
    return tmp_path
