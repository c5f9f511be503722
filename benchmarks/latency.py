"""Latency of an action chunk (four Euler steps), of this package's action heads and of LeRobot's own, in one run.

    python benchmarks/latency.py [--device=cpu] [--scale=demo] [--batch_sizes=1,64] [--seconds=5]

All heads have the same width, depth, number of heads, chunk and context; they predict from random numbers, without
image encoders. LeRobot's are the DiT of its groot policy, which alternates cross- and self-attention, and the
transformer of multi_task_dit, which sees the context as one vector. `recomputed` heads project the observation to keys
and values in every step instead of once per chunk. Measurements take turns, so that a busy machine slows all alike.
The cost of an aligned policy compared with a plain one (none) is in inference.py.
"""

import argparse
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from lerobot.policies.groot.action_head.cross_attention_dit import DiT
from lerobot.policies.multi_task_dit.modeling_multi_task_dit import DiffusionTransformer
from step import repeat
from torch import Tensor, nn

from lerobot_lara.dit.action_head import ActionHead
from lerobot_lara.dit.adaln_zero_head import AdaLNZeroActionHead
from lerobot_lara.dit.alternating_head import AlternatingActionHead

EULER_STEPS, TURNS, ACTION_DIM, STATE_DIM = 4, 5, 32, 64
# Noisy actions (B, T, A) and flow time (B,) -> (B, T, A).
Velocity = Callable[[Tensor, Tensor], Tensor]
logger = logging.getLogger("latency")


@dataclass(frozen=True)
class Geometry:
    """Sizes of an action head."""

    width: int
    num_layers: int
    num_heads: int
    chunk_size: int
    context_width: int
    num_context_tokens: int


GEOMETRIES = {
    "demo": Geometry(128, 4, 4, 16, 128, 17),
    "reference": Geometry(1536, 16, 32, 16, 2048, 128),
}


class GrootHead(nn.Module):
    """LeRobot's groot DiT between linear projections of the actions."""

    def __init__(self, size: Geometry) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(ACTION_DIM, size.width), nn.Linear(size.width, ACTION_DIM)
        self.dit = DiT(
            num_attention_heads=size.num_heads,
            attention_head_dim=size.width // size.num_heads,
            output_dim=size.width,
            num_layers=size.num_layers,
            interleave_self_attention=True,
            cross_attention_dim=size.context_width,
            positional_embeddings=None,
        )

    def forward(self, actions: Tensor, time: Tensor, context: Tensor) -> Tensor:
        """Predicts the velocity (B, T, A) from noisy actions (B, T, A), flow time (B,) and context (B, N, C)."""
        return self.decoder(self.dit(self.encoder(actions), context, timestep=(1000 * time).long()))


def build(size: Geometry, device: str) -> dict[str, Callable[[Tensor], Velocity]]:
    """Builds every head as a function of the context that returns the velocity of a chunk."""
    arguments: dict[str, Any] = {
        "action_dim": ACTION_DIM,
        "state_dim": STATE_DIM,
        "chunk_size": size.chunk_size,
        "width": size.width,
        "num_layers": size.num_layers,
        "num_heads": size.num_heads,
        "context_width": size.context_width,
        "num_embodiments": 1,
        "dropout": 0.0,
        "state_dropout": 0.0,
    }
    config = SimpleNamespace(
        action_feature=SimpleNamespace(shape=(ACTION_DIM,)),
        horizon=size.chunk_size,
        hidden_dim=size.width,
        num_layers=size.num_layers,
        num_heads=size.num_heads,
        dropout=0.0,
        use_rope=True,
        rope_base=10000.0,
        use_positional_encoding=False,
        timestep_embed_dim=256,
    )
    vector = DiffusionTransformer(config, conditioning_dim=size.context_width).to(device).eval()
    groot = GrootHead(size).to(device).eval()
    heads: dict[str, Callable[[Tensor], Velocity]] = {
        "lerobot_groot": lambda context: lambda actions, time: groot(actions, time, context),
        "lerobot_multi_task_dit": lambda context: lambda actions, time: vector(actions, time, context[:, 0]),
    }
    own: dict[str, ActionHead] = {
        "adaln_zero": AdaLNZeroActionHead(**arguments, action_patch_size=1),
        "gr00t": AlternatingActionHead(**arguments, projection_width=None, ignore_context_mask=False),
    }
    for name, head in own.items():
        head.to(device).eval()
        heads[name] = partial(velocity_of, head, project_once=True)
        heads[f"{name}_recomputed"] = partial(velocity_of, head, project_once=False)
    return heads


def velocity_of(head: ActionHead, context: Tensor, *, project_once: bool) -> Velocity:
    """Returns the velocity that a head of this package predicts with a context, as a function of actions and time."""
    size = len(context)
    given = {
        "state": context.new_zeros(size, STATE_DIM),
        "context": context,
        "context_mask": torch.ones(context.shape[:2], dtype=torch.bool, device=context.device),
        "embodiment_id": torch.zeros(size, dtype=torch.long, device=context.device),
        "context_keys_values": head.project_context(context) if project_once else None,
    }
    return partial(head, **given)


@torch.no_grad()
def sample(head: Callable[[Tensor], Velocity], actions: Tensor, context: Tensor) -> Tensor:
    """Predicts a chunk, as `LaraDiTPolicy.predict_action_chunk` integrates it."""
    velocity = head(context)
    for step in range(EULER_STEPS):
        time = torch.full((len(actions),), step / EULER_STEPS, device=actions.device)
        actions = actions + velocity(actions, time) / EULER_STEPS
    return actions


def main() -> None:
    """Logs one line of latencies and ratios per batch size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scale", choices=tuple(GEOMETRIES), default="demo")
    parser.add_argument("--batch_sizes", default="1,64")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each head and batch size")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logger.setLevel(logging.INFO)
    size, device = GEOMETRIES[arguments.scale], torch.device(arguments.device)
    heads = build(size, arguments.device)
    for batch_size in map(int, arguments.batch_sizes.split(",")):
        actions = torch.randn(batch_size, size.chunk_size, ACTION_DIM, device=device)
        context = torch.randn(batch_size, size.num_context_tokens, size.context_width, device=device)
        spent = dict.fromkeys(heads, (0, 0.0))
        for turn in range(TURNS + 1):
            for name, head in heads.items():
                count, seconds = repeat(
                    partial(sample, head, actions, context), arguments.seconds / TURNS, device
                )
                if turn:  # the first is a warm-up
                    spent[name] = (spent[name][0] + count, spent[name][1] + seconds)
        times = {name: 1000 * seconds / count for name, (count, seconds) in spent.items()}
        result = {f"{name}_ms": round(value, 2) for name, value in times.items()}
        for name in ("adaln_zero", "gr00t"):
            result[f"{name}_over_lerobot_groot"] = round(times[name] / times["lerobot_groot"], 2)
            result[f"{name}_over_recomputed"] = round(times[name] / times[f"{name}_recomputed"], 2)
        logger.info("batch %d: %s", batch_size, json.dumps(result))


if __name__ == "__main__":
    main()
