"""NVIDIA's layout is read by the loading code that a released checkpoint meets, and what does not fit is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature
from safetensors.torch import load_file, save_file
from support.tiny_groot_n16 import CAMERA, HEAD, tiny_config

from lerobot_lara.groot_n16.modeling_groot_n16 import GrootN16Policy
from lerobot_lara.groot_n16.release import generation

SHARD = "model-00001-of-00002.safetensors"
WEIGHT = "action_head.action_decoder.layer1.b"


@pytest.fixture
def copy(release: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(release, tmp_path / "GR00T-N1.6-3B"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_weights_and_settings_come_from_the_files(tokenizer: str, copy: Path) -> None:
    head = HEAD | {"attend_text_every_n_blocks": 3}
    edit(copy / "config.json", num_inference_timesteps=7, **head)
    config = tiny_config(tokenizer, shortest_image_edge=100, cameras=[], pretrained_path=copy)
    policy = GrootN16Policy.from_pretrained(copy, config=config)
    stored: dict[str, torch.Tensor] = {}
    for file in copy.glob("*.safetensors"):
        stored |= load_file(file)
    state = policy.model.state_dict()
    assert set(state) == set(stored)
    assert all(torch.equal(state[name], value.to(state[name].dtype)) for name, value in stored.items())
    assert policy.model.action_head.num_inference_timesteps == 7
    assert policy.model.action_head.model.attend_text_every_n_blocks == 3
    assert config.shortest_image_edge == 24 and config.cameras == [CAMERA]
    # LeRobot makes new processors, as the files have none of its own.
    assert config.pretrained_path is None and config.base_model_path == str(copy)


def test_a_single_file_without_language_head_is_read_too(tokenizer: str, copy: Path) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for file in copy.glob("*.safetensors"):
        tensors |= load_file(file)
        file.unlink()
    (copy / "model.safetensors.index.json").unlink()
    del tensors["backbone.model.language_model.lm_head.weight"]
    save_file(tensors, copy / "model.safetensors")
    policy = GrootN16Policy.from_pretrained(copy, config=tiny_config(tokenizer))
    language = policy.model.vision_language.language_model
    assert language.lm_head.weight is language.model.embed_tokens.weight


def test_base_model_path_alone_loads_the_weights(tokenizer: str, release: Path) -> None:
    policies = [GrootN16Policy(tiny_config(tokenizer, base_model_path=str(release))) for _ in range(2)]
    first, second = (policy.state_dict() for policy in policies)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "Gr00tN1d6"}, "N1.6"),
        ({"architectures": ["Gr00tN1d7"]}, "N1.7"),
        ({"model_type": "gr00t_n1_5", "architectures": ["GR00T_N1_5"]}, "N1.5"),
        ({"model_type": "qwen3"}, None),
        ({}, None),
    ],
)
def test_generations_are_told_apart(config: dict, expected: str | None) -> None:
    assert generation(config) == expected


@pytest.mark.parametrize(
    ("model_type", "message"),
    [
        (
            "Gr00tN1d7",
            "is of GR00T N1.7; it must be of GR00T N1.6. Use LeRobot's own policy: --policy.type=groot",
        ),
        ("gr00t_n1_5", "is of GR00T N1.5; it must be of GR00T N1.6. .*lerobot==0.5.1"),
        ("llama", "is of type 'llama'; it must be of GR00T N1.6"),
    ],
)
def test_other_models_are_refused(tokenizer: str, copy: Path, model_type: str, message: str) -> None:
    edit(copy / "config.json", model_type=model_type, architectures=[])
    with pytest.raises(ValueError, match=message):
        GrootN16Policy.from_pretrained(copy, config=tiny_config(tokenizer))


@pytest.mark.parametrize("type_name", ["groot", "lara_dit"])
def test_checkpoints_of_other_types_are_refused(tokenizer: str, copy: Path, type_name: str) -> None:
    (copy / "config.json").write_text(json.dumps({"type": type_name}))
    with pytest.raises(
        ValueError, match=f"is a checkpoint of type '{type_name}'; it must be of type 'groot_n16'"
    ):
        GrootN16Policy.from_pretrained(copy, config=tiny_config(tokenizer))


def test_a_release_alone_does_not_say_what_the_robot_has(release: Path) -> None:
    with pytest.raises(ValueError, match=r"is in NVIDIA's layout.*Pass a `config`"):
        GrootN16Policy.from_pretrained(release)


def remove_weight(copy: Path) -> None:
    tensors = load_file(copy / SHARD)
    tensors.pop(WEIGHT)
    save_file(tensors, copy / SHARD)


def rename_weight(copy: Path) -> None:
    tensors = load_file(copy / SHARD)
    tensors["action_head.vl_self_attention.weight"] = tensors.pop(WEIGHT)
    save_file(tensors, copy / SHARD)


def reshape_weight(copy: Path) -> None:
    tensors = load_file(copy / SHARD)
    save_file(tensors | {WEIGHT: torch.zeros(3)}, copy / SHARD)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_weight, f"lacks 1 weights of GR00T N1.6, such as '{WEIGHT}'"),
        (
            rename_weight,
            "has the weight 'action_head.vl_self_attention.weight', which GR00T N1.6 does not have",
        ),
        (reshape_weight, rf"has '{WEIGHT}' of shape \[3\]; it must be \[4, 12\]"),
        (lambda copy: (copy / SHARD).unlink(), f"has no {SHARD}"),
        (lambda copy: (copy / SHARD).write_bytes(b"version https://git-lfs"), f"{SHARD} cannot be read"),
        (lambda copy: (copy / "statistics.json").unlink(), "has no statistics.json"),
        (lambda copy: (copy / "statistics.json").write_text("{"), "statistics.json is not valid JSON"),
        (lambda copy: (copy / "embodiment_id.json").write_text("[]"), "embodiment_id.json holds list"),
        (lambda copy: (copy / "processor_config.json").unlink(), "has no processor_config.json"),
    ],
)
def test_damaged_files_are_named(tokenizer: str, copy: Path, damage: Any, message: str) -> None:
    damage(copy)
    with pytest.raises(ValueError, match=message):
        GrootN16Policy.from_pretrained(copy, config=tiny_config(tokenizer))


def test_a_release_with_a_shorter_horizon_says_so(tokenizer: str, copy: Path) -> None:
    edit(copy / "config.json", action_horizon=6)
    with pytest.raises(ValueError, match=r"`chunk_size` is 8; it must be .* at most action_horizon=6"):
        GrootN16Policy.from_pretrained(copy, config=tiny_config(tokenizer))


def test_cameras_follow_the_names_of_the_release(tokenizer: str, copy: Path) -> None:
    def load(**cameras: Any) -> list[str]:
        config = tiny_config(tokenizer, embodiment_tag="known_robot")
        config.input_features = {
            name: PolicyFeature(FeatureType.VISUAL, (3, 32, 32))
            for name in ("observation.images.b", *cameras)
        } | {"observation.state": config.input_features["observation.state"]}
        return GrootN16Policy.from_pretrained(copy, config=config).config.cameras

    assert load(**{"observation.images.image": 1}) == ["observation.images.image"]
    with pytest.raises(ValueError, match=r"`cameras` is \[\]; it must name one key for each of \['image'\]"):
        load()


def test_a_robot_of_other_dimensions_is_refused(tokenizer: str, release: Path) -> None:
    from lerobot_lara.groot_n16.processor_groot_n16 import make_groot_n16_pre_post_processors

    settings = {"embodiment_tag": "known_robot", "base_model_path": str(release), "cameras": [CAMERA]}
    config = tiny_config(tokenizer, **settings)
    config.output_features["action"] = PolicyFeature(FeatureType.ACTION, (3,))
    with pytest.raises(
        ValueError, match=r"`action` has 3 .* must have 4 .*gripper \(1\), joints \(2\), height \(1\)"
    ):
        make_groot_n16_pre_post_processors(config)
