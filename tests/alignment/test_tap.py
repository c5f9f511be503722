import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lerobot_lara.alignment.tap import HiddenStateTap


def test_keeps_the_output_only_while_armed():
    block = nn.Linear(3, 3)
    tap = HiddenStateTap(block)
    block(torch.randn(2, 3))
    with pytest.raises(RuntimeError, match="did not run"):
        tap.take()
    with tap:
        first = block(torch.ones(2, 3))
        block(torch.zeros(2, 3))
    assert tap.take() is first
    with pytest.raises(RuntimeError):
        tap.take()


def test_takes_the_first_of_a_tuple():
    class Block(nn.Module):
        def forward(self, x):
            return x + 1, "weights"

    block = Block()
    tap = HiddenStateTap(block)
    with tap:
        out = block(torch.zeros(1))
    assert tap.take() is out[0]


def test_gradient_survives_checkpointing():
    """The recomputation runs the hook again, after the tensor was taken."""
    block, head = nn.Linear(3, 3), nn.Linear(3, 1)
    x = torch.randn(2, 3)
    tap = HiddenStateTap(block)
    with tap:
        checkpoint(block, x, use_reentrant=False)
    head(tap.take()).sum().backward()
    expected = torch.autograd.grad(head(block(x)).sum(), block.weight)[0]
    torch.testing.assert_close(block.weight.grad, expected)
