"""The released geometry of GR00T N1.6, on the meta device: every name, and how many parameters each part has."""

from collections import Counter

import pytest
import torch

from lerobot_lara.groot_n16.configuration_groot_n16 import GrootN16Config
from lerobot_lara.groot_n16.model import GrootN16Model

# Keys and millions of parameters by prefix; the language head counts, though it is the embedding.
PARTS = {
    "backbone.model.vision_model.vision_model.": (448, 427.7),
    "backbone.model.mlp1.": (6, 13.6),
    "backbone.model.language_model.": (179, 1426.7),
    "action_head.model.": (456, 1091.7),
    "action_head.state_encoder.": (4, 54.6),
    "action_head.action_encoder.": (6, 232.9),
    "action_head.action_decoder.": (4, 37.8),
    "action_head.position_embedding.": (1, 1.57),
    "action_head.vlln.": (2, 0.004),
}
SHAPES = {
    "backbone.model.vision_model.vision_model.embeddings.position_embedding.weight": (256, 1152),
    "backbone.model.mlp1.0.weight": (4608,),
    "backbone.model.mlp1.1.weight": (2048, 4608),
    "backbone.model.mlp1.3.weight": (2048, 2048),
    "backbone.model.language_model.lm_head.weight": (151680, 2048),
    "backbone.model.language_model.model.layers.15.mlp.up_proj.weight": (6144, 2048),
    "action_head.model.transformer_blocks.0.attn1.to_k.weight": (1536, 2048),
    "action_head.model.transformer_blocks.1.attn1.to_k.weight": (1536, 1536),
    "action_head.model.proj_out_1.weight": (3072, 1536),
    "action_head.model.proj_out_2.weight": (1024, 1536),
    "action_head.state_encoder.layer1.W": (32, 128, 1024),
    "action_head.action_encoder.W1.W": (32, 128, 1536),
    "action_head.action_decoder.layer2.W": (32, 1024, 128),
    "action_head.position_embedding.weight": (1024, 1536),
    "action_head.vlln.weight": (2048,),
}


@pytest.fixture(scope="module")
def model() -> GrootN16Model:
    with torch.device("meta"):
        return GrootN16Model(GrootN16Config(device="cpu"))


def test_names_and_sizes_are_those_of_the_release(model: GrootN16Model) -> None:
    state = model.state_dict()
    assert len(state) == 1106
    keys, sizes = Counter[str](), Counter[str]()
    for name, tensor in state.items():
        [prefix] = [prefix for prefix in PARTS if name.startswith(prefix)]
        keys[prefix] += 1
        sizes[prefix] += tensor.numel()
    assert keys == {prefix: count for prefix, (count, _) in PARTS.items()}
    millions = {prefix: size / 1e6 for prefix, size in sizes.items()}
    assert millions == pytest.approx({prefix: size for prefix, (_, size) in PARTS.items()}, abs=0.06)
    assert {name: tuple(state[name].shape) for name in SHAPES} == SHAPES
    total = sum(parameter.numel() for parameter in model.parameters())
    assert total == pytest.approx(2.976e9, rel=1e-3)
    assert total + state["backbone.model.language_model.lm_head.weight"].numel() == pytest.approx(
        3.287e9, rel=1e-3
    )


def test_the_top_layers_and_the_head_are_trained(model: GrootN16Model) -> None:
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    backbone = {name for name in trained if name.startswith("backbone.")}
    assert {name.split(".")[5] for name in backbone} == {"12", "13", "14", "15"}
    assert all(name.startswith("backbone.model.language_model.model.layers.") for name in backbone)
    head = {name for name, _ in model.action_head.named_parameters()}
    assert {name.removeprefix("action_head.") for name in trained - backbone} == head
    frozen = {p.dtype for p in model.parameters() if not p.requires_grad}
    assert frozen == {torch.bfloat16}
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
