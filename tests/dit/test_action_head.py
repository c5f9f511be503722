import pytest
import torch
from support.heads import HEADS, inputs, make_head

from lerobot_lara.dit.blocks import DiTBlock, EmbodimentLinear

BOTH = pytest.mark.parametrize("name", HEADS)


@BOTH
def test_shape_and_every_parameter_learns(name):
    head, batch = make_head(name).train(), inputs()
    batch["embodiment_id"] = torch.tensor([0, 1, 0, 1])
    velocity = head(**batch, state_valid=torch.tensor([True, True, False, False]))
    assert velocity.shape == (4, 6, 3)
    velocity.square().mean().backward()
    silent = [n for n, p in head.named_parameters() if p.grad is None or not p.grad.any()]
    # A key bias shifts all logits of a query alike: softmax cannot see it. diffusers' keys carry one.
    assert [n for n in silent if not n.endswith("to_k.bias")] == []


@BOTH
@pytest.mark.parametrize("key", ["noisy_actions", "timestep", "state", "context", "embodiment_id"])
def test_every_input_matters(name, key):
    head, batch = make_head(name), inputs()
    before = head(**batch)
    changed = 1 - batch[key] if key == "embodiment_id" else batch[key] + 0.5
    assert not torch.allclose(before, head(**batch | {key: changed}), atol=1e-4)


@BOTH
def test_masked_context_does_not_matter(name):
    head, batch = make_head(name), inputs()
    before = head(**batch)
    batch["context"][:, 4] += 100
    torch.testing.assert_close(before, head(**batch))


@BOTH
def test_null_state_hides_the_state(name):
    head, batch = make_head(name), inputs()
    hidden = torch.zeros(4, dtype=torch.bool)
    before = head(**batch, state_valid=hidden)
    torch.testing.assert_close(before, head(**batch | {"state": batch["state"] + 1}, state_valid=hidden))
    torch.testing.assert_close(before, head(**batch | {"state": None}))


@BOTH
def test_state_dropout_acts_in_training_only(name):
    head, batch = make_head(name, state_dropout=0.999), inputs()
    null = head(**batch | {"state": None})
    torch.testing.assert_close(head.train()(**batch), null)
    assert not torch.allclose(head.eval()(**batch), null)


@BOTH
def test_fresh_head_predicts_no_velocity(name):
    assert not make_head(name, fresh=True)(**inputs()).any()


def test_fresh_block_is_the_identity():
    block = DiTBlock(width=16, num_heads=2, context_width=12)
    x = torch.randn(2, 3, 16)
    out = block(x, torch.randn(2, 5, 12), torch.ones(2, 5, dtype=torch.bool), torch.randn(2, 16))
    assert torch.equal(out, x)


def test_embodiments_have_their_own_weights():
    layer = EmbodimentLinear(3, 4, 5)
    torch.nn.init.normal_(layer.bias)
    x, ids = torch.randn(2, 7, 4), torch.tensor([2, 0])
    for row, embodiment in enumerate(ids):
        expected = x[row] @ layer.weight[embodiment] + layer.bias[embodiment]
        torch.testing.assert_close(layer(x, ids)[row], expected)
