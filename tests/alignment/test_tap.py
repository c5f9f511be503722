import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lerobot_lara.alignment.tap import HiddenStateTap
from lerobot_lara.policy.alignment_contract import TapPoint


def test_keeps_the_output_only_while_armed():
    block = nn.Linear(3, 3)
    tap = HiddenStateTap(TapPoint(block))
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
    tap = HiddenStateTap(TapPoint(block))
    with tap:
        out = block(torch.zeros(1))
    assert tap.take() is out[0]


def test_takes_what_the_point_names():
    class Block(nn.Module):
        def forward(self, x, y):
            return x + 1, y + 1

    block, x, y = Block(), torch.zeros(1), torch.ones(1)
    expected = {("input", 0): x, ("input", 1): y, ("output", 1): y + 1}
    for (side, index), value in expected.items():
        tap = HiddenStateTap(TapPoint(block, side, index))
        with tap:
            block(x, y)
        assert torch.equal(tap.take(), value), (side, index)


def test_the_input_of_the_next_module_shows_a_block_that_is_never_called():
    """SmolVLA and pi0 run the parts of their blocks, not the blocks."""
    block, norm = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), nn.LayerNorm(3)
    silent, heard = HiddenStateTap(TapPoint(block)), HiddenStateTap(TapPoint(norm, "input"))
    with silent, heard:
        hidden_states = block[1](block[0](torch.ones(2, 3)))
        norm(hidden_states)
    assert heard.take() is hidden_states
    with pytest.raises(RuntimeError, match="tapped Sequential did not run"):
        silent.take()


def test_gradient_survives_checkpointing():
    """The recomputation runs the hook again, after the tensor was taken."""
    block, head = nn.Linear(3, 3), nn.Linear(3, 1)
    x = torch.randn(2, 3)
    tap = HiddenStateTap(TapPoint(block))
    with tap:
        checkpoint(block, x, use_reentrant=False)
    head(tap.take()).sum().backward()
    expected = torch.autograd.grad(head(block(x)).sum(), block.weight)[0]
    torch.testing.assert_close(block.weight.grad, expected)
