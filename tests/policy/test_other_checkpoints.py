"""Checkpoints of another type, and files that are none, are named with the remedy."""

import pytest

from lerobot_lara.dit.modeling_lara_dit import LaraDiTPolicy
from lerobot_lara.lam.latent_action_model import LatentActionModel
from lerobot_lara.lam.modeling_lara_lam import LaraLAMPolicy
from lerobot_lara.modeling_lara import LaraPolicy


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
    with pytest.raises(ValueError, match=r"lara_lam/config\.json"):
        LatentActionModel.from_pretrained(saved / "lara_lam")


def test_the_folder_of_a_run_leads_to_its_last_checkpoint(saved, tmp_path):
    nested = tmp_path / "run" / "checkpoints" / "last" / "pretrained_model"
    nested.parent.mkdir(parents=True)
    (saved / "lara_lam").rename(nested)
    with pytest.raises(ValueError, match=rf"Did you mean {nested}\?"):
        LatentActionModel.from_pretrained(tmp_path / "run")
