"""The alignment loss equals the reference's, value and gradients (golden/alignment)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.alignments import make_alignment

TENSORS = load_file(Path(__file__).parent / "golden" / "alignment.safetensors")
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def reference_alignment(**options):
    """The reference's choices: one Linear, last token, plain cosine."""
    arguments = {"head": "linear", "pooling": "last", "centering": False} | options
    alignment = make_alignment(16, 32, **arguments)
    with torch.no_grad():
        alignment.alignment_head.weight.copy_(TENSORS["in/projector_weight"])
        alignment.alignment_head.bias.copy_(TENSORS["in/projector_bias"])
    return alignment


def test_loss_and_gradients():
    alignment = reference_alignment()
    hidden = TENSORS["in/all_hidden_states.2"].clone().requires_grad_()
    embed = TENSORS["in/embed"].clone().requires_grad_()
    loss, predicted = alignment(hidden, embed)
    torch.testing.assert_close(predicted, TENSORS["out/predicted"], **CLOSE)
    torch.testing.assert_close(embed.flatten(1), TENSORS["out/target"], **CLOSE)
    torch.testing.assert_close(loss, TENSORS["out/latent_loss"], **CLOSE)
    loss.backward()
    torch.testing.assert_close(hidden.grad, TENSORS["grad/all_hidden_states.2"], **CLOSE)
    torch.testing.assert_close(embed.grad, TENSORS["grad/embed"], **CLOSE)
    torch.testing.assert_close(
        alignment.alignment_head.weight.grad, TENSORS["grad/projector_weight"], **CLOSE
    )
    torch.testing.assert_close(alignment.alignment_head.bias.grad, TENSORS["grad/projector_bias"], **CLOSE)


def test_two_pairs_are_averaged_before_the_cosine():
    embed = TENSORS["in/embed_two_pairs"].unflatten(0, (3, 2)).mean(1)  # (3, 4, 8)
    loss, _ = reference_alignment()(TENSORS["in/all_hidden_states.2"], embed)
    torch.testing.assert_close(embed.flatten(1), TENSORS["out_two_pairs/target"], **CLOSE)
    torch.testing.assert_close(loss, TENSORS["out_two_pairs/latent_loss"], **CLOSE)


@pytest.mark.parametrize("options", [{"pooling": "mean"}, {"centering": True}])
def test_our_defaults_are_not_the_references(options):
    loss, _ = reference_alignment(**options)(TENSORS["in/all_hidden_states.2"], TENSORS["in/embed"])
    assert abs(loss - TENSORS["out/latent_loss"]) > 1e-3


def test_the_aligned_state_is_the_output_of_block_l_minus_2():
    """The reference takes entry -3 of [input, block 1, ..., block L]; ours counts blocks from 1."""
    from lerobot_lara.configuration_lara import LaraConfig

    layer = LaraConfig(device="cpu").resolve_alignment_layer(4)
    states = [TENSORS[f"in/all_hidden_states.{i}"] for i in range(5)]
    assert torch.equal(states[layer], states[-3])
