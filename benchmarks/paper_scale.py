"""Computes size and cost of the networks in configs/paper/ without weights or a GPU; writes configs/paper/README.md.

    python benchmarks/paper_scale.py

The networks are built on PyTorch's meta device, which has shapes but no values. FLOPs are those of the matrix products,
as counted by PyTorch. Memory is that of weights, gradients and AdamW's moments, and of what the backward pass keeps.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from reference_models import write_qwen3_vl_2b, write_vit_mae_large
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import vgg16

from lerobot_lara.backbones.vision_language import load_vision_language_model
from lerobot_lara.dit.alternating_head import AlternatingActionHead
from lerobot_lara.dit.context_adapter import ContextAdapter
from lerobot_lara.lam.latent_action_model import LatentActionModel
from lerobot_lara.lam.settings import LatentActionSettings

PAPER = Path(__file__).parents[1] / "configs" / "paper"
BATCH = 2
NUM_EMBODIMENTS = 64
# Two cameras of (224 / 32) ** 2 image tokens each, and about 30 of text.
NUM_CONTEXT_TOKENS = 128
GIGA = 1e9


@dataclass
class Part:
    """One network, or one part of it.

    Args:
        name: Name in the table.
        modules: Modules with its parameters.
        run: Runs a forward pass on `BATCH` samples.
        backward: What a backward pass computes: "all" gradients of a trained network, those of the "input" alone that
            pass through a frozen one, or none.
        flops: FLOPs per sample and forward pass; None counts those of `run`.
    """

    name: str
    modules: Iterable[nn.Module]
    run: Callable[[], Any]
    backward: str | None
    flops: float | None = None

    def parameters(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for module in self.modules for p in module.parameters())

    def measure(self) -> tuple[float, float]:
        """Counts the FLOPs of a forward pass and the bytes that it keeps for the backward pass, per sample."""
        if self.flops is not None:
            return self.flops, 0.0
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[id(storage)] = storage.nbytes()
            alive.append(storage)
            return tensor

        alive: list[Any] = []
        weights = {id(p.untyped_storage()) for module in self.modules for p in module.parameters()}
        counter = FlopCounterMode(display=False)
        grad = torch.no_grad() if self.backward is None else torch.enable_grad()
        with counter, grad, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            self.run()
        activations = sum(size for key, size in kept.items() if key not in weights)
        return counter.get_total_flops() / BATCH, activations / BATCH


def lam_parts(policy: dict[str, Any], encoder: str) -> list[Part]:
    """Builds the parts of a latent action model.

    Args:
        policy: Fields of the policy's configuration.
        encoder: Name of the frame encoder.
    """
    names = LatentActionSettings.__dataclass_fields__
    fields = {name: value for name, value in policy.items() if name in names}
    # The perceptual loss is a separate part here, and its weights are not needed.
    settings = LatentActionSettings(**fields | {"frame_encoder": encoder, "perceptual_loss_weight": 0.0})
    lam = LatentActionModel(settings)
    side, predicted = settings.image_size, settings.prediction_size
    frames = torch.rand(BATCH, 2, 3, side, side)
    tokens = torch.rand(BATCH, lam.frame_encoder.num_tokens, lam.frame_encoder.width)
    latent = torch.rand(BATCH, settings.num_latent_tokens, settings.latent_dim)
    backbone = lam.frame_encoder.backbone.module
    vgg = vgg16(weights=None).features.requires_grad_(False)
    images = torch.rand(BATCH, 3, predicted, predicted, requires_grad=True)
    return [
        Part(
            "LAM frame encoder, 2 frames", [backbone], lambda: lam.frame_encoder(frames.flatten(0, 1)), None
        ),
        Part(
            "LAM inverse dynamics",
            [lam.inverse_dynamics],
            lambda: lam.inverse_dynamics(tokens, tokens),
            "all",
        ),
        Part(
            "LAM forward dynamics",
            [lam.forward_dynamics],
            lambda: lam.forward_dynamics(frames[:, 0], latent, None),
            "all",
        ),
        # The features of the true frame are computed without a gradient, those of the prediction with one.
        Part("perceptual loss (VGG16), prediction", [vgg], lambda: vgg(images), "input"),
        Part("perceptual loss (VGG16), true frame", [], lambda: vgg(images), None),
    ]


def policy_parts(policy: dict[str, Any], vlm: str) -> list[Part]:
    """Builds the parts of a policy with a vision-language model.

    Args:
        policy: Fields of the policy's configuration.
        vlm: Name of the vision-language model.
    """
    model, _ = load_vision_language_model(vlm, layer=policy["vlm_layer"])
    width = model.config.get_text_config().hidden_size
    adapter = ContextAdapter(
        width=width,
        num_layers=policy["vlm_self_attention_layers"],
        num_heads=width // 64,
        dropout=policy["dropout"],
    )
    names = ("chunk_size", "width", "projection_width", "num_layers", "num_heads", "dropout")
    head = AlternatingActionHead(
        **{name: policy[name] for name in names},
        action_dim=policy["max_action_dim"],
        state_dim=policy["max_state_dim"],
        context_width=width,
        num_embodiments=NUM_EMBODIMENTS,
        state_dropout=0.0,
        ignore_context_mask=False,
    )
    context = torch.rand(BATCH, NUM_CONTEXT_TOKENS, width)
    mask = torch.ones(BATCH, NUM_CONTEXT_TOKENS, dtype=torch.bool)
    layers = sum(p.numel() for p in model.get_decoder().layers.parameters())
    patches = 2 * (224 // 16) ** 2
    vision = sum(p.numel() for p in model.visual.blocks.parameters())
    # Its rotary positions depend on values, which the meta device lacks: 2 FLOPs per weight and token are assumed.
    flops = 2.0 * (layers * NUM_CONTEXT_TOKENS + vision * patches)

    def run_head() -> Tensor:
        return head(
            torch.rand(BATCH, policy["chunk_size"], policy["max_action_dim"]),
            torch.rand(BATCH),
            state=torch.rand(BATCH, policy["max_state_dim"]),
            context=context,
            context_mask=mask,
            embodiment_id=torch.zeros(BATCH, dtype=torch.long),
        )

    return [
        Part(f"vision-language model, layer {policy['vlm_layer']} of 28", [model], lambda: None, None, flops),
        Part("its self-attention adapter", [adapter], lambda: adapter(context, mask), "all"),
        Part("DiT action head", [head], run_head, "all"),
    ]


def table(parts: list[Part]) -> tuple[list[str], dict[str, float]]:
    """Formats the rows of the table and sums over the parts."""
    rows, sums = [], {"weights": 0.0, "step": 0.0, "states": 0.0, "activations": 0.0}
    for part in parts:
        parameters = part.parameters()
        flops, activations = part.measure()
        # The gradients of the inputs cost one forward pass, and those of the weights another.
        step = flops * {"all": 3, "input": 2, None: 1}[part.backward]
        trained = part.backward == "all"
        # The frozen models of a LAM have float32 weights.
        states = parameters * (16 if trained else 2 if part.flops is not None else 4)
        sums["weights"] += parameters
        sums["step"] += step
        sums["states"] += states
        sums["activations"] += activations / 2
        kind = "trained" if trained else "frozen"
        rows.append(
            f"| {part.name} | {parameters / 1e6:,.0f} | {kind} | {flops / GIGA:,.1f} | {step / GIGA:,.1f} | "
            f"{states / GIGA:.2f} | {activations / 2 / 1e6:,.0f} |"
        )
    rows.append(
        f"| **all** | {sums['weights'] / 1e6:,.0f} | | | {sums['step'] / GIGA:,.1f} | {sums['states'] / GIGA:.2f} | "
        f"{sums['activations'] / 1e6:,.0f} |"
    )
    return rows, sums


TITLE = "## Size and cost"
INTRODUCTION = f"""{TITLE}

Written by `python benchmarks/paper_scale.py` from the configurations in this folder; computed, not measured. FLOPs and
activations are per sample. FLOPs are those of matrix products, a backward pass counting twice its forward pass, or once
where the weights are frozen; the vision-language model's are 2 per weight and token. States are weights, gradients and
AdamW's moments in float32 for what is trained (16 bytes per parameter), weights alone for what is not (the LAM's in
float32). Activations are what the backward pass keeps, at 2 bytes per number, without gradient checkpointing. The
action head has rows for {NUM_EMBODIMENTS} embodiments, which are half of its weights; prompts have
{NUM_CONTEXT_TOKENS} tokens (two cameras).
"""
HEAD = [
    "| part | parameters, M | | forward, GFLOP | training step, GFLOP | states, GB | activations, MB |",
    "|---|---|---|---|---|---|---|",
]


def describe() -> str:
    """The text of configs/paper/README.md: what stands above the title, and the computed section."""
    stage1, stage2 = (
        yaml.safe_load((PAPER / f"{name}.yaml").read_text()) for name in ("stage1_lam", "stage2_lara")
    )
    with tempfile.TemporaryDirectory() as folder:
        encoder = write_vit_mae_large(Path(folder) / "mae")
        vlm = write_qwen3_vl_2b(Path(folder) / "vlm")
        with torch.device("meta"):
            lam = lam_parts(stage1["policy"], encoder)
            policy = policy_parts(stage2["policy"], vlm)
            stages = {
                "Stage 1: latent action model": (table(lam), stage1["batch_size"]),
                "Stages 2 and 3: LARA": (table([*policy, *lam]), stage2["batch_size"]),
            }
    by_hand = (PAPER / "README.md").read_text().split(f"\n{TITLE}\n")[0].splitlines()
    lines = [*by_hand, "", *INTRODUCTION.splitlines()]
    for title, ((rows, sums), batch) in stages.items():
        memory = (sums["states"] + batch * sums["activations"]) / GIGA
        lines += ["", f"### {title}", "", *HEAD, *rows, ""]
        lines.append(
            f"Per GPU at its batch of {batch}: {sums['states'] / GIGA:.1f} GB of states and "
            f"{batch * sums['activations'] / GIGA:.1f} GB of activations, {memory:.0f} GB together; "
            f"{batch * sums['step'] / 1e12:,.1f} TFLOP per step."
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Writes configs/paper/README.md."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    (PAPER / "README.md").write_text(describe())


if __name__ == "__main__":
    main()
