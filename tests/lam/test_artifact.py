"""Saving and loading: bit for bit, strict, and with errors that say what is wrong."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lerobot_lara.lam import artifact
from lerobot_lara.lam.latent_action_model import LatentActionModel

MakeLAM = Callable[..., LatentActionModel]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"quantizer": "vq"},
        {"quantizer": "fsq", "fsq_levels": (5, 4)},
        {"frame_encoder": "random:torchvision:resnet18"},
    ],
    ids=["continuous", "vq", "fsq", "frozen encoder"],
)
def test_round_trip_is_exact(make_lam: MakeLAM, frames: Tensor, tmp_path: Path, settings: dict) -> None:
    lam = make_lam(**settings)
    lam(frames)  # moves the EMA codebook off its start
    lam.eval().save_pretrained(tmp_path / "deep" / "lam")
    loaded = LatentActionModel.from_pretrained(tmp_path / "deep", subfolder="lam")
    assert not loaded.training and loaded.settings == lam.settings
    expected, actual = lam(frames), loaded(frames)
    assert torch.equal(actual.latent_action, expected.latent_action)
    assert torch.equal(actual.quantized_latent_action, expected.quantized_latent_action)
    assert torch.equal(actual.prediction, expected.prediction)


def test_given_weights_are_saved_instead(make_lam: MakeLAM, tmp_path: Path) -> None:
    lam = make_lam()
    zeros = {key: torch.zeros_like(value) for key, value in lam.state_dict().items()}
    lam.save_pretrained(tmp_path, state_dict=zeros)
    loaded = LatentActionModel.from_pretrained(tmp_path)
    assert all(value.abs().sum() == 0 for value in loaded.state_dict().values())


def edit_config(directory: Path, **changes: object) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_damage_is_named(make_lam: MakeLAM, tmp_path: Path) -> None:
    make_lam().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()

    def fails(message: str) -> None:
        with pytest.raises(ValueError, match=message):
            LatentActionModel.from_pretrained(tmp_path)

    weights.write_bytes(whole[: len(whole) // 2])
    fails(r"Corrupted checkpoint: .*model\.safetensors cannot be read")
    weights.unlink()
    fails("There is no model.safetensors")
    weights.write_bytes(whole)
    tensors = load_file(weights)
    save_file({k: v for k, v in tensors.items() if not k.endswith("queries")}, weights)
    fails(r"does not fit its config\.json.*inverse_dynamics\.queries")
    save_file(tensors | {"model.extra": torch.zeros(1)}, weights)
    fails("extra")
    weights.write_bytes(whole)
    edit_config(tmp_path, idm_width=64)
    fails("does not fit its config.json")
    edit_config(tmp_path, idm_width=32, number_of_wheels=4)
    fails(r"config\.json: Unknown field.*number_of_wheels")
    (tmp_path / "config.json").write_text("{")
    fails("not valid JSON")


def test_other_things_than_a_latent_action_model_are_named(make_lam: MakeLAM, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'no/such-lam'.*neither a local directory nor a Hub"):
        LatentActionModel.from_pretrained("no/such-lam")
    with pytest.raises(ValueError, match="neither a local directory"):
        LatentActionModel.from_pretrained(tmp_path / "missing" / "deep" / "path")
    with pytest.raises(ValueError, match=r"There is no config\.json"):
        LatentActionModel.from_pretrained(tmp_path)
    make_lam().save_pretrained(tmp_path / "pretrained_model")
    with pytest.raises(ValueError, match=r"Did you mean .*pretrained_model"):
        LatentActionModel.from_pretrained(tmp_path)
    edit_config(tmp_path / "pretrained_model", type="act")
    with pytest.raises(ValueError, match="is of type 'act', but a latent action model"):
        LatentActionModel.from_pretrained(tmp_path / "pretrained_model")
    edit_config(tmp_path / "pretrained_model", type="lara")
    with pytest.raises(ValueError, match="folder `lam`"):
        LatentActionModel.from_pretrained(tmp_path / "pretrained_model")


def test_lerobot_reads_it(make_lam: MakeLAM, tmp_path: Path) -> None:
    from lerobot.configs import PreTrainedConfig

    from lerobot_lara.lam.configuration_lara_lam import LaraLAMConfig

    lam = make_lam(quantizer="fsq", fsq_levels=(5, 4, 3))
    lam.save_pretrained(tmp_path)
    config = PreTrainedConfig.from_pretrained(tmp_path)
    assert isinstance(config, LaraLAMConfig) and config.settings == lam.settings


def test_a_field_that_lerobot_adds_is_no_obstacle(
    make_lam: MakeLAM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What LeRobot knows of the policy around the model follows the LeRobot that is installed."""
    from lerobot.configs import PreTrainedConfig

    make_lam().save_pretrained(tmp_path)
    assert {field.name for field in fields(PreTrainedConfig)} <= artifact.policy_fields
    edit_config(tmp_path, field_of_lerobot_0_7=True)
    with pytest.raises(ValueError, match="field_of_lerobot_0_7"):
        LatentActionModel.from_pretrained(tmp_path)
    monkeypatch.setattr(artifact, "policy_fields", {*artifact.policy_fields, "field_of_lerobot_0_7"})
    LatentActionModel.from_pretrained(tmp_path)


def test_the_fingerprint_is_that_of_the_weights(make_lam: MakeLAM, tmp_path: Path) -> None:
    lam = make_lam()
    lam.save_pretrained(tmp_path / "a")
    lam.save_pretrained(tmp_path / "b")
    assert artifact.digest(tmp_path / "a") == artifact.digest(tmp_path / "b")
    with torch.no_grad():
        next(lam.parameters()).add_(1)
    lam.save_pretrained(tmp_path / "b")
    assert artifact.digest(tmp_path / "a") != artifact.digest(tmp_path / "b")
