"""Tiny action heads and what goes into them."""

import torch

from lerobot_lara.dit.action_head import FlowMatchingActionHead
from lerobot_lara.dit.alternating_head import AlternatingActionHead

HEADS = {"adaln_zero": FlowMatchingActionHead, "gr00t": AlternatingActionHead}


def make_head(name, fresh=False, **options):
    torch.manual_seed(0)
    arguments = {"action_dim": 3, "state_dim": 2, "chunk_size": 6, "width": 16}
    arguments |= {"num_layers": 2, "num_heads": 2, "context_width": 12, "num_embodiments": 2}
    arguments |= {"action_patch_size": 2} if name == "adaln_zero" else {}
    head = HEADS[name](**arguments | options)
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
