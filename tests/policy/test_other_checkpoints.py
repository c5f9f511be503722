"""Checkpoints of another type, and files that are none, are named with the remedy."""

import pytest
import torch
from support.policies import TINY_LAM, features, make_lara, make_policy

from lerobot_lara.dit.modeling_lara_dit import LaraDiTPolicy
from lerobot_lara.lam.configuration_lara_lam import LaraLAMConfig
from lerobot_lara.lam.latent_action_model import LatentActionModel
from lerobot_lara.lam.modeling_lara_lam import LaraLAMPolicy
from lerobot_lara.modeling_lara import LaraPolicy


@pytest.fixture
def saved(tmp_path):
    """A checkpoint of each type, by type."""
    torch.manual_seed(0)
    config = LaraLAMConfig(**TINY_LAM, device="cpu", push_to_hub=False, **features(action=0))
    LaraLAMPolicy(config).save_pretrained(tmp_path / "lara_lam")
    make_policy().save_pretrained(tmp_path / "lara_dit")
    make_lara(str(tmp_path / "lara_lam")).save_pretrained(tmp_path / "lara")
    return tmp_path


@pytest.mark.parametrize(
    ("policy_class", "type_name", "right"),
    [
        (LaraPolicy, "lara_dit", "LaraDiTPolicy"),
        (LaraPolicy, "lara_lam", "LaraLAMPolicy"),
        (LaraLAMPolicy, "lara_dit", "LaraDiTPolicy"),
        (LaraLAMPolicy, "lara", "LaraPolicy"),
        (LaraDiTPolicy, "lara_lam", "LaraLAMPolicy"),
    ],
)
def test_a_checkpoint_of_another_type_names_its_class(saved, policy_class, type_name, right):
    with pytest.raises(
        ValueError, match=rf"of type '{type_name}', which {policy_class.__name__}.*Use {right}"
    ):
        policy_class.from_pretrained(saved / type_name)


def test_the_policy_of_an_aligned_checkpoint_is_a_lara_dit(saved):
    assert LaraDiTPolicy.from_pretrained(saved / "lara").action_head is not None


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"lara_dit"'])
@pytest.mark.parametrize("policy_class", [LaraDiTPolicy, LaraLAMPolicy])
def test_a_damaged_configuration_is_named(saved, policy_class, content):
    folder = saved / policy_class.name
    (folder / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json (is not valid JSON|holds)"):
        policy_class.from_pretrained(folder)


@pytest.mark.parametrize("content", ["", "[]", "null"])
def test_a_damaged_lam_is_named(saved, content):
    (saved / "lara_lam" / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"Corrupted checkpoint: .*config\.json"):
        LatentActionModel.from_pretrained(saved / "lara_lam")


def test_the_folder_of_a_run_leads_to_its_last_checkpoint(saved, tmp_path):
    nested = tmp_path / "run" / "checkpoints" / "last" / "pretrained_model"
    nested.parent.mkdir(parents=True)
    (saved / "lara_lam").rename(nested)
    with pytest.raises(ValueError, match=rf"Did you mean {nested}\?"):
        LatentActionModel.from_pretrained(tmp_path / "run")
