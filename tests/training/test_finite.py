"""Numbers that are not finite are found where they arise, and go nowhere."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.policies import (
    CAMERA,
    TINY_LAM,
    fake_batch,
    features,
    loss_of,
    make_lara,
    make_policy,
    pair_batch,
)

from lerobot_lara.dit.modeling_lara_dit import LaraDiTPolicy
from lerobot_lara.lam.configuration_lara_lam import LaraLAMConfig
from lerobot_lara.lam.latent_action_model import LatentActionModel
from lerobot_lara.lam.modeling_lara_lam import LaraLAMPolicy
from lerobot_lara.training.finite import require_finite


@pytest.fixture
def lam_path(tmp_path):
    torch.manual_seed(0)
    LatentActionModel.from_config(**TINY_LAM).save_pretrained(tmp_path / "lam")
    return str(tmp_path / "lam")


@pytest.mark.parametrize("key", ["action", "observation.state"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_its_cause(lam_path, key, value):
    for policy, batch in ((make_policy(), fake_batch()), (make_lara(lam_path), pair_batch())):
        batch[key][2, ..., 0] = value
        batch |= {
            "episode_index": torch.arange(len(batch[key])) + 40,
            "index": torch.arange(len(batch[key])) + 7,
        }
        with pytest.raises(
            ValueError,
            match=rf"`flow_loss` is (nan|inf).*`{key}` .* in sample 2 \(episode_index 42, index 9\)\. Repair",
        ):
            policy.train()(batch)


def test_a_value_that_overflows_is_named_by_its_size():
    batch = fake_batch()
    batch["action"][1, 2, 0] = 1e30
    with pytest.raises(ValueError, match=r"All inputs are finite.*`action` up to 1e\+30.*diverged"):
        make_policy().train()(batch)


def test_the_lam_stops_too(lam_path):
    policy = LaraLAMPolicy(LaraLAMConfig(**TINY_LAM, device="cpu", **features(action=0)))
    with torch.no_grad():
        next(policy.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match=r"`reconstruction_loss` is nan"):
        policy.train()(pair_batch())
    aligned = make_lara(lam_path)
    with torch.no_grad():
        next(aligned.lam.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match=r"`lam_loss` is nan"):
        loss_of(aligned, pair_batch())


def test_no_robot_gets_an_action_that_is_not_finite():
    policy, batch = make_policy(), fake_batch(2)
    batch["observation.state"][1, 0] = float("nan")
    with pytest.raises(ValueError, match=r"Predicted actions are not finite.*Check the observation"):
        policy.select_action(batch)


def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(lam_path, tmp_path):
    good = make_policy()
    good.save_pretrained(tmp_path / "good")
    with torch.no_grad():
        good.action_head.positions[0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"Weights to be saved are not finite: `action_head\.positions`"):
        good.save_pretrained(tmp_path / "bad")
    assert not (tmp_path / "bad" / "model.safetensors").exists()

    file = tmp_path / "good" / "model.safetensors"
    weights = load_file(file)
    weights["action_head.positions"][0, 0, 0] = float("inf")
    save_file(weights, file)
    with pytest.raises(
        ValueError, match=r"Weights in .*model\.safetensors are not finite.*earlier checkpoint"
    ):
        LaraDiTPolicy.from_pretrained(tmp_path / "good")


@pytest.mark.parametrize("part", ["lam", "alignment"])
def test_so_are_those_of_the_lam_and_the_alignment(lam_path, tmp_path, part):
    policy = make_lara(lam_path)
    with torch.no_grad():
        next(getattr(policy, part).parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="are not finite"):
        policy.save_pretrained(tmp_path / "out")


def test_a_lam_that_is_not_finite_is_not_loaded(lam_path, tmp_path):
    file = tmp_path / "lam" / "model.safetensors"
    weights = load_file(file)
    next(iter(weights.values())).fill_(float("nan"))
    save_file(weights, file)
    with pytest.raises(ValueError, match=r"Weights in .* are not finite"):
        LatentActionModel.from_pretrained(lam_path)


def test_integers_are_left_aside():
    require_finite({"count": torch.tensor([1, 2])}, "Counts", "")
    with pytest.raises(ValueError, match=r"Numbers are not finite: `a` and 1 more\. Look\."):
        bad = torch.tensor([float("nan")])
        require_finite({"a": bad, "b": bad, "c": torch.zeros(1)}, "Numbers", "Look.")


def test_a_batch_without_images_of_the_right_range_is_refused_before():
    batch = fake_batch()
    batch[CAMERA][0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="spans"):
        make_policy().train()(batch)
