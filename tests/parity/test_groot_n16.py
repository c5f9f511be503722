"""Backbone and action head of `groot_n16` equal the public implementation (golden/groot_n16, written once by it)."""

import json
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lerobot_lara.groot_n16.action_head import build_action_head
from lerobot_lara.groot_n16.backbone import EagleBackbone

GOLDEN = Path(__file__).parent / "golden" / "groot_n16"
VISION = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_patches",
    "patch_size",
)
TEXT = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
)


def golden(name: str) -> tuple[dict, dict[str, Tensor], dict[str, Tensor]]:
    """Configuration, weights, and inputs and outputs of a golden file."""
    tensors = load_file(GOLDEN / f"groot_n16_{name}.safetensors")
    config = json.loads((GOLDEN / f"groot_n16_{name}.json").read_text())["config"]
    weights = {key: value for key, value in tensors.items() if "/" not in key}
    return config, weights, {key: value for key, value in tensors.items() if "/" in key}


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


# Backbone


@pytest.fixture(scope="module")
def backbone() -> EagleBackbone:
    config, weights, _ = golden("backbone_tiny")
    model = EagleBackbone(
        vision={name: config["vision_config"][name] for name in VISION},
        text={name: config["text_config"][name] for name in TEXT}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": config["text_config"]["rope_theta"]}},
        num_layers=config["llm_select_layer"],
        image_token_id=config["image_token_index"],
    )
    weights.setdefault("language_model.lm_head.weight", weights["language_model.model.embed_tokens.weight"])
    model.load_state_dict(weights, strict=True)
    return model.eval()


@torch.no_grad()
def test_images_become_the_same_tokens(backbone: EagleBackbone) -> None:
    tensors = golden("backbone_tiny")[2]
    images = [tensors[f"in/pixel_values/{index}"].reshape(1, 3, *size) for index, size in enumerate(SIZES)]
    tokens = torch.cat([backbone.encode_images(image)[0] for image in images])
    assert_equal(tokens, tensors["out/image_tokens"])


SIZES = ((16, 24), (16, 16), (16, 16))


@torch.no_grad()
def test_prompts_are_read_alike(backbone: EagleBackbone) -> None:
    tensors = golden("backbone_tiny")[2]
    mask = tensors["in/attention_mask"].bool()
    features = backbone(tensors["in/input_ids"], mask, tensors["out/image_tokens"])
    # Padding means nothing, and is left out.
    assert_equal(features[mask], tensors["out/backbone_features"][mask])
    assert not torch.allclose(features[mask], tensors["out/last_layer_before_norm"][mask], atol=0.1)
    assert torch.equal(backbone.image_mask(tensors["in/input_ids"]), tensors["out/image_mask"])


def test_prompts_without_room_for_the_images_are_refused(backbone: EagleBackbone) -> None:
    tensors = golden("backbone_tiny")[2]
    with pytest.raises(ValueError, match="14 image tokens; they must have 13"):
        backbone(tensors["in/input_ids"], tensors["in/attention_mask"], tensors["out/image_tokens"][1:])


# Action head


def make_head(name: str, **changes: float) -> torch.nn.Module:
    """The head of the plain golden file, with the weights of both (the second has only what is new)."""
    config, weights, _ = golden("head_tiny")
    settings = config | changes
    own = ("max_state_dim", "max_action_dim", "action_horizon", "backbone_embedding_dim")
    not_ours = (
        "tune_projector",
        "tune_diffusion_model",
        "tune_vlln",
        "state_additive_noise_scale",
        "num_inference_timesteps",
        "state_dropout_prob",
    )
    head = build_action_head(
        settings={key: value for key, value in settings.items() if key not in (*own, *not_ours)},
        **{key: settings[key] for key in own},
        num_inference_timesteps=settings["num_inference_timesteps"],
        state_dropout_prob=settings["state_dropout_prob"],
    )
    if name != "head_tiny":
        weights |= golden(name)[1]
    head.load_state_dict(weights, strict=True)
    return head.eval()


def inputs(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the backbone and the data hand to the head, those of the plain file unless the other has its own."""
    tensors = golden("head_tiny")[2] | golden(name)[2]
    backbone = {
        key: tensors[f"in/{key}"] for key in ("backbone_features", "backbone_attention_mask", "image_mask")
    }
    action = {key: tensors[f"in/{key}"] for key in ("state", "action", "action_mask", "embodiment_id")}
    return backbone, action


def forward(head: torch.nn.Module, name: str):
    tensors = golden("head_tiny")[2] | golden(name)[2]
    with (
        patch.object(torch, "randn", lambda *args, **kwargs: tensors["in/noise"]),
        patch.object(head, "sample_time", lambda *args, **kwargs: tensors["in/t"]),
    ):
        return head(*inputs(name))


@torch.no_grad()
def test_loss_and_hidden_states_are_the_same() -> None:
    tensors, head, hidden = golden("head_tiny")[2], make_head("head_tiny"), []
    for block in head.model.transformer_blocks:
        block.register_forward_hook(lambda module, args, output: hidden.append(output))
    output = forward(head, "head_tiny")
    assert_equal(output["loss"], tensors["out/loss"])
    assert_equal(output["action_loss"], tensors["out/action_loss"])
    assert len(hidden) == 8
    for index, states in enumerate(hidden, start=1):
        assert_equal(states, tensors[f"out/hidden_states/{index}"])


def test_gradients_are_the_same() -> None:
    head = make_head("head_tiny")
    forward(head, "head_tiny")["loss"].backward()
    expected = json.loads((GOLDEN / "groot_n16_head_tiny.json").read_text())
    norms = expected["parameter_gradient_norms"]
    actual = {
        name: parameter.grad.norm().item() for name, parameter in head.named_parameters() if name in norms
    }
    assert actual == pytest.approx(norms, abs=1e-5, rel=1e-4)
    assert len(norms) > 100


@pytest.mark.parametrize("name", ["head_tiny", "head_state_dropout"])
def test_sampled_actions_are_the_same(name: str) -> None:
    changes = {} if name == "head_tiny" else {"state_dropout_prob": 0.5}
    tensors, head = golden("head_tiny")[2] | golden(name)[2], make_head(name, **changes)
    with patch.object(torch, "randn", lambda *args, **kwargs: tensors["in/sampling_noise"]):
        assert_equal(head.get_action(*inputs(name))["action_pred"], tensors["out/action_pred"])


@torch.no_grad()
def test_hidden_states_of_the_robot_are_replaced_alike() -> None:
    tensors, head = golden("head_state_dropout")[2], make_head("head_state_dropout", state_dropout_prob=0.5)
    dropped = tensors["in/state_dropped"].bool().reshape(-1)
    with patch.object(head, "draw_dropped_states", lambda size, device: dropped):
        assert_equal(forward(head, "head_state_dropout")["loss"], tensors["out/loss"])
