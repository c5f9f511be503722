"""Tiny action heads and what goes into them."""

import torch

from lerobot_lara.dit.adaln_zero_head import AdaLNZeroActionHead
from lerobot_lara.dit.alternating_head import AlternatingActionHead

HEADS = {"adaln_zero": AdaLNZeroActionHead, "gr00t": AlternatingActionHead}
COMMON = {
    "action_dim": 3,
    "state_dim": 2,
    "chunk_size": 6,
    "width": 16,
    "num_layers": 2,
    "num_heads": 2,
    "context_width": 12,
    "num_embodiments": 2,
    "dropout": 0.0,
    "state_dropout": 0.0,
}
OWN = {
    "adaln_zero": {"action_patch_size": 2},
    "gr00t": {"projection_width": None, "ignore_context_mask": False},
}


def make_head(name, fresh=False, **options):
    torch.manual_seed(0)
    head = HEADS[name](**COMMON | OWN[name] | options)
    for parameter in () if fresh else head.parameters():  # leave the silent start, where nothing matters yet
        torch.nn.init.normal_(parameter, std=0.3)
    return head.eval()


def inputs(batch_size=4):
    torch.manual_seed(1)
    return {
        "noisy_actions": torch.randn(batch_size, 6, 3),
        "timestep": torch.rand(batch_size),
        "state": torch.randn(batch_size, 2),
        "context": torch.randn(batch_size, 5, 12),
        "context_mask": torch.tensor([[True] * 4 + [False]] * batch_size),
        "embodiment_id": torch.zeros(batch_size, dtype=torch.long),
    }


def count_projections(module):
    """Counts the calls of every layer that turns observation tokens into keys or values; filled as they happen."""
    calls = {
        f"{name}.{part}": 0
        for name, attention in module.named_modules()
        if getattr(attention, "is_cross_attention", False) and hasattr(attention, "to_k")
        for part in ("to_k", "to_v")
    }
    for name in calls:
        module.get_submodule(name).register_forward_hook(
            lambda *_, name=name: calls.update({name: calls[name] + 1})
        )
    return calls
