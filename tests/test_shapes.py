"""Shapes and dtypes that the docstrings of plain PyTorch promise, checked here and not in production.

Each row calls one function with another size in every dimension; what has to come back is read from the docstring.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from support.docstrings import SHAPE, attributes_section, check_shapes, public_docstrings, returns_section
from support.leaves import (
    HEAD_SIZES,
    LAM_SIZES,
    head_inputs,
    make_image_encoder,
    make_lam,
    make_leaf_head,
    make_text_encoder,
)
from support.tiny_vlms import IMAGE_SIZE, save_tiny_vlm

from lerobot_lara.alignment.objective import LatentAlignment, center, contrast, same_dataset
from lerobot_lara.alignment.targets import action_target, feature_target
from lerobot_lara.backbones.images import resize
from lerobot_lara.backbones.pretrained import to_tokens
from lerobot_lara.backbones.vision_language import InstructionPrompt
from lerobot_lara.batch.frame_pairs import FramePairs
from lerobot_lara.dit import flow_matching
from lerobot_lara.dit.alternating_head import discretize
from lerobot_lara.dit.blocks import encode_state
from lerobot_lara.dit.conditioning import InstructionEncoder, ObservationEncoder
from lerobot_lara.dit.context_adapter import ContextAdapter
from lerobot_lara.dit.vlm_conditioning import VLMObservationEncoder
from lerobot_lara.lam.frame_encoder import encode_frames
from lerobot_lara.lam.latent_action_model import LatentActionModel, LatentActionOutput
from lerobot_lara.lam.losses import pair_error
from lerobot_lara.lam.perceptual import PerceptualLoss
from lerobot_lara.training.augmentation import random_shift, sample_shifts
from lerobot_lara.training.distributed import gather

FOLDERS = ("batch", "backbones", "training", "lam", "dit", "alignment")
DOCSTRINGS = dict(public_docstrings(FOLDERS))
# Functions whose `Returns:` names a shape that is not one of a tensor they return, and why.
EXEMPT = {
    "Quantizer.indices_to_latent": "raises: the interface's own latents have no codes",
    "load_image_backbone": "returns a module, and what it maps to what",
}


class Row(NamedTuple):
    """A function by name, a call of it, and the sizes; `summary` is the promise of one that has no `Returns:`."""

    name: str
    call: Callable[[], Any]
    sizes: dict[str, Any]
    summary: str | None = None


def frames() -> torch.Tensor:
    return torch.rand(2, 2, 3, 40, 48)


def encode(lam: LatentActionModel) -> Any:
    return lam.frame_encoder, lam.encode(frames())


def quantize(**fields: Any) -> Callable[[], Any]:
    return lambda: make_lam(**fields).quantizer(torch.randn(2, 3, 5))


def look_up(**fields: Any) -> Callable[[], Any]:
    return lambda: make_lam(**fields).quantizer.indices_to_latent(torch.zeros(2, 3, dtype=torch.int64))


def perceive() -> torch.Tensor:
    if find_spec("stlpips_pytorch") is None:
        pytest.skip("stlpips-pytorch, which has the weights, is not installed")
    return PerceptualLoss("stlpips")(torch.rand(2, 3, 32, 40), torch.rand(2, 3, 32, 40))


VQ = {"quantizer": "vq", "codebook_size": 11, "codebook_kmeans_init": False}
GRADIENT_VQ = VQ | {"codebook_update": "gradient"}
FSQ = {"quantizer": "fsq", "fsq_levels": (4, 3)}
LAM_ROWS = [
    Row("encode_frames", lambda: encode_frames(make_image_encoder(), frames()), LAM_SIZES),
    Row(
        "InverseDynamicsModel.forward",
        lambda: make_lam().inverse_dynamics(torch.randn(2, 6, 7), torch.randn(2, 6, 7)),
        LAM_SIZES,
    ),
    Row(
        "ForwardDynamicsModel.forward",
        lambda: make_lam().forward_dynamics(
            torch.rand(2, 3, 40, 48), torch.randn(2, 3, 5), torch.randn(2, 6, 7)
        ),
        LAM_SIZES | {"prediction_size": 16, "feature_width": 7},
    ),
    Row("Quantizer.forward", quantize(), LAM_SIZES, "(B, L, C)"),  # continuous: no codes
    *(
        Row(f"{name}.{method}", call(**fields), LAM_SIZES, summary)
        for name, fields in (("GradientVQ", GRADIENT_VQ), ("EMAVectorQuantizer", VQ), ("FSQuantizer", FSQ))
        for method, call, summary in (
            ("forward", quantize, None),
            ("indices_to_latent", look_up, "(B, L, C)"),
        )
    ),
    Row("LatentActionModel.no_motion", lambda: make_lam().no_motion(torch.randn(2, 6, 7)), LAM_SIZES),
    Row(
        "LatentActionModel.decode",
        lambda: make_lam().decode(torch.rand(2, 3, 40, 48), torch.randn(2, 3, 5)),
        LAM_SIZES,
    ),
    Row(
        "LatentActionModel.indices_to_latent",
        lambda: make_lam(**VQ).indices_to_latent(torch.zeros(2, 3, dtype=torch.int64)),
        LAM_SIZES,
        "(B, L, C)",
    ),
    Row(
        "Attention.forward",
        lambda: (
            make_lam()
            .inverse_dynamics.transformer.blocks[0]
            .attention(torch.randn(2, 4, 8), torch.randn(2, 7, 8))
        ),
        {"B": 2, "N": 4, "D": 8},
    ),
    Row("PerceptualLoss.forward", perceive, {"B": 2}),
    Row("pair_error", lambda: pair_error(torch.rand(2, 3, 4), torch.rand(2, 3, 4)), {"B": 2}, "(B,)"),
]


def on_head(name: str, call: Callable[[Any, dict[str, Any]], Any]) -> Callable[[], Any]:
    """Calls something with a head and its inputs."""
    return lambda: call(make_leaf_head(name), head_inputs())


def attend(head: Any, x: dict[str, Any]) -> torch.Tensor:
    """Calls the block's attention to the observation by itself."""
    attention = head.blocks[0].context_attention
    return attention.processor(attention, torch.randn(2, 5, 16), x["context"], x["context_mask"][:, None])


HEAD_ROWS = [
    *(
        Row("ActionHead.forward", on_head(name, lambda head, x: head(**x)), HEAD_SIZES)
        for name in ("adaln_zero", "gr00t")
    ),
    *(
        Row(
            f"{head}.embed",
            on_head(
                name,
                lambda head, x: head.embed(
                    torch.randn(2, 1, 16),
                    x["noisy_actions"].unflatten(1, (-1, head.action_patch_size)).flatten(2),
                    1000 * x["timestep"],
                    x["embodiment_id"],
                ),
            ),
            HEAD_SIZES | {"N": num_tokens},
        )
        for name, head, num_tokens in (
            ("adaln_zero", "AdaLNZeroActionHead", 5),
            ("gr00t", "AlternatingActionHead", 10),
        )
    ),
    Row("ContextAttentionProcessor.__call__", on_head("gr00t", attend), HEAD_SIZES),
    Row(
        "FlowTimeEmbedding.forward",
        on_head("gr00t", lambda head, x: head.time_embedding(1000 * x["timestep"])),
        HEAD_SIZES,
        "(B, D)",
    ),
    *(
        Row(
            block,
            on_head(
                head,
                lambda head, x: head.blocks[0](
                    torch.randn(2, 5, 16), x["context"], x["context_mask"], torch.randn(2, 16)
                ),
            ),
            HEAD_SIZES,
        )
        for head, block in (("adaln_zero", "DiTBlock.forward"), ("gr00t", "AlternatingBlock.forward"))
    ),
    Row(
        "TimedActionEncoder.forward",
        on_head(
            "gr00t",
            lambda head, x: head.action_encoder(x["noisy_actions"], 1000 * x["timestep"], x["embodiment_id"]),
        ),
        HEAD_SIZES,
    ),
    Row(
        "EmbodimentLinear.forward",
        on_head(
            "gr00t", lambda head, x: head.action_encoder.projection(x["noisy_actions"], x["embodiment_id"])
        ),
        {"B": 2, "N": 10, "out_features": 16},
    ),
    Row(
        "EmbodimentMLP.forward",
        on_head("gr00t", lambda head, x: head.action_decoder(torch.randn(2, 10, 16), x["embodiment_id"])),
        {"B": 2, "N": 10, "out_features": 3},
        "(B, N, out_features)",
    ),
    Row("discretize", lambda: discretize(torch.rand(2)), HEAD_SIZES, "(B,)"),
    Row(
        "encode_state",
        on_head(
            "gr00t",
            lambda head, x: encode_state(
                x["state"],
                x["embodiment_id"],
                encoder=head.state_encoder,
                null_state=head.null_state,
                valid=torch.tensor([True, False]),
                dropout=0.0,
            ),
        ),
        HEAD_SIZES,
    ),
]


def make_actions() -> list[torch.Tensor]:
    return [torch.randn(2, 6, 3), torch.randn(2, 6, 3), torch.rand(2)]


def everywhere(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.bool)


FLOW_SIZES: dict[str, Any] = {"B": 2, "T": 6, "A": 3}
FLOW_ROWS = [
    Row(
        "sample_timestep",
        lambda: flow_matching.sample_timestep(2, alpha=1.5, beta=1.0, s=0.999, device="cpu"),
        FLOW_SIZES,
    ),
    Row("interpolate", lambda: flow_matching.interpolate(*make_actions()), FLOW_SIZES),
    Row("path_velocity", lambda: flow_matching.path_velocity(*make_actions()[:2]), FLOW_SIZES, "(B, T, A)"),
    Row(
        "sample_errors",
        lambda: flow_matching.sample_errors(*make_actions()[:2], everywhere((2, 6, 1))),
        FLOW_SIZES,
        "(B,)",
    ),
]


def observe() -> Any:
    encoder = ObservationEncoder(
        image_encoder=make_image_encoder(), num_cameras=3, width=16, text_encoder=make_text_encoder()
    )
    images = [torch.rand(2, 3, 40, 48) for _ in range(3)]
    return encoder(images, torch.tensor([[1, 2], [1, 0]]), everywhere((2, 2)), image_valid=everywhere((2, 3)))


def observe_with_vlm(folder: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    name = save_tiny_vlm("smolvlm", folder)
    prompt = InstructionPrompt(name, num_cameras=3, image_size=IMAGE_SIZE["smolvlm"], max_length=16)
    inputs = prompt(["push the red square", "open drawer"])
    encoder = VLMObservationEncoder(
        name,
        layer=1,
        image_size=IMAGE_SIZE["smolvlm"],
        num_cameras=3,
        num_trained_layers=0,
        lora_rank=0,
        num_self_attention_layers=0,
        dropout=0.0,
        dtype=torch.float32,
    )
    images = [torch.rand(2, 3, 40, 48) for _ in range(3)]
    return encoder(images, inputs["input_ids"], inputs["attention_mask"].bool()), inputs


CONTEXT_ROWS = [
    Row(
        "ImageEncoder.forward",
        lambda: make_image_encoder()(torch.rand(4, 3, 40, 48)),
        {"N": 4, "P": 6, "D": 7},
    ),
    Row(
        "TextEncoder.forward",
        lambda: make_text_encoder()(torch.ones(2, 4, dtype=torch.int64), everywhere((2, 4))),
        {"B": 2, "S": 4, "D": 9},
        "(B, S, D)",
    ),
    Row(
        "InstructionEncoder.forward",
        lambda: InstructionEncoder(make_text_encoder(), 16)(
            torch.ones(2, 4, dtype=torch.int64), everywhere((2, 4))
        ),
        {"B": 2, "D": 16},
        "(B, 1, D)",
    ),
    Row("ObservationEncoder.forward", observe, {"B": 2, "V": 3, "P": 6, "D": 16}),
    Row(
        "ContextAdapter.forward",
        lambda: ContextAdapter(width=12, num_layers=1, num_heads=2, dropout=0.0)(
            torch.randn(2, 7, 12), everywhere((2, 7))
        ),
        {"B": 2, "M": 7, "W": 12},
    ),
    Row(
        "resize",
        lambda: resize(torch.rand(2, 5, 3, 40, 48), 16),
        {"...": (2, 5), "size": 16},
        "(..., 3, size, size)",
    ),
    Row(
        "to_tokens",
        lambda: to_tokens(torch.rand(2, 7, 4, 3)),
        {"N": 2, "D": 7, "h": 4, "w": 3},
        "(N, h*w, D)",
    ),
]


def align() -> Any:
    alignment = LatentAlignment(
        hidden_width=12,
        latent_width=15,
        head="mlp",
        pooling="mean",
        centering=True,
        loss="cosine",
        temperature=0.1,
    )
    return alignment(
        torch.randn(5, 4, 12), torch.randn(5, 3, 5), pair_valid=torch.tensor([False] + 4 * [True])
    )


DATASETS = torch.tensor([0, 0, 1, 1])
OTHER_ROWS = [
    Row("LatentAlignment.forward", align, {"B": 5, "Z": 15}),
    Row(
        "contrast",
        lambda: contrast(torch.randn(4, 7), torch.randn(4, 7), everywhere((4,)), DATASETS, temperature=0.1),
        {"B": 4},
    ),
    Row("center", lambda: center(torch.randn(4, 7), everywhere((4,)), DATASETS), {"B": 4, "Z": 7}),
    Row(
        "action_target",
        lambda: action_target({"action": torch.randn(5, 4, 3)}, steps=4, dim=3),
        {"B": 5, "T": 4, "A": 3},
    ),
    Row(
        "feature_target",
        lambda: feature_target(make_image_encoder(), torch.rand(5, 3, 32, 32)),
        {"B": 5, "F": make_image_encoder().width},
    ),
    Row("same_dataset", lambda: same_dataset(everywhere((4,)), DATASETS), {"B": 4}, "(B, B) bool"),
    Row("sample_shifts", lambda: sample_shifts(2, 3).float(), {"B": 2}, "(B, 2)"),
    Row(
        "random_shift",
        lambda: random_shift(torch.rand(2, 5, 3, 40, 48), 3),
        {"B": 2, "...": (5,), "H": 40, "W": 48},
        "(B, ..., 3, H, W)",
    ),
    Row("gather", lambda: gather(torch.randn(2, 3)), {"W": 1, "B": 2, "...": (3,)}),
]
VLM = ("InstructionPrompt.__call__", "VLMObservationEncoder.forward")  # checked together
ROWS = [*LAM_ROWS, *HEAD_ROWS, *FLOW_ROWS, *CONTEXT_ROWS, *OTHER_ROWS]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_is_returned_has_the_promised_shapes(row: Row) -> None:
    assert not row.summary or row.summary in " ".join(DOCSTRINGS[row.name].split())
    torch.manual_seed(0)
    with torch.no_grad():
        output = row.call()
    check_shapes(row.summary or returns_section(DOCSTRINGS[row.name]), output, row.sizes)


def test_vision_language_context(tmp_path: Path) -> None:
    output, inputs = observe_with_vlm(tmp_path)
    sizes: dict[str, Any] = {"B": 2, "S": inputs["input_ids"].shape[1], "W": 32}
    for name, found in zip(VLM, (inputs, output), strict=True):
        check_shapes(returns_section(DOCSTRINGS[name]), found, sizes)


@pytest.mark.parametrize("fields", [{}, VQ], ids=["continuous", "vq"])
def test_what_a_latent_action_model_finds(fields: dict[str, Any]) -> None:
    output = make_lam(**fields)(frames())
    attributes = attributes_section(LatentActionOutput)
    checked = {name for name, text in attributes.items() if SHAPE.search(text)}
    assert checked >= {"latent_action", "quantized_latent_action", "code_indices", "prediction", "pair_error"}
    for name in checked - (set() if fields else {"code_indices"}):
        check_shapes(attributes[name], getattr(output, name), LAM_SIZES)


def test_what_frame_pairs_hold() -> None:
    batch = {"observation.image": frames(), "observation.image_is_pad": ~everywhere((2, 2))}
    batch["observation.dataset_index"] = torch.tensor([0, 1])
    pairs = FramePairs.from_batch(batch, "observation.image")
    attributes = attributes_section(FramePairs)
    assert attributes.keys() == {"frames", "valid", "dataset_index"}
    for name, text in attributes.items():
        check_shapes(text, getattr(pairs, name), {"B": 2, "H": 40, "W": 48})


def test_every_promise_is_checked() -> None:
    checked = {row.name for row in ROWS} | set(VLM)
    promising = {name for name, text in DOCSTRINGS.items() if SHAPE.search(returns_section(text))}
    assert promising - checked - EXEMPT.keys() == set(), "add a row for each"
    assert (checked | EXEMPT.keys()) - DOCSTRINGS.keys() == set(), "these are gone"
