import pytest
import torch
from torch.nn import functional as F

from lerobot_lara.dit.context_adapter import ContextAdapter

CONTEXT = torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[True] * 5, [True] * 4 + [False], [False] + [True] * 4])


def make(**options):
    torch.manual_seed(0)
    adapter = ContextAdapter(**{"width": 12, "num_layers": 2, "num_heads": 2, "dropout": 0.0} | options)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return adapter.eval()


def test_padding_reaches_no_other_token():
    adapter = make()
    before = adapter(CONTEXT, MASK)
    changed = CONTEXT + 5 * ~MASK[..., None] * torch.randn(12)
    assert torch.equal(adapter(changed, MASK)[MASK], before[MASK])
    assert not torch.allclose(adapter(changed, torch.ones_like(MASK))[MASK], before[MASK], atol=1e-3)


def test_every_token_sees_the_others():
    adapter = make(num_layers=1)
    before = adapter(CONTEXT, torch.ones_like(MASK))
    changed = CONTEXT.clone()
    changed[:, 2] = changed[:, 2].flip(-1)
    difference = (adapter(changed, torch.ones_like(MASK)) - before).abs().amax(-1)  # (B, M)
    assert (difference > 1e-4).all()


def test_without_layers_it_is_a_layer_norm():
    adapter = make(num_layers=0)
    expected = F.layer_norm(CONTEXT, (12,), adapter.norm.weight, adapter.norm.bias)
    assert torch.equal(adapter(CONTEXT, MASK), expected)
    assert sum(parameter.numel() for parameter in adapter.parameters()) == 24


def test_every_parameter_learns():
    adapter = make().train()
    (adapter(CONTEXT, MASK) * torch.randn(12)).sum().backward()
    silent = [n for n, p in adapter.named_parameters() if p.grad is None or not p.grad.any()]
    assert [n for n in silent if not n.endswith("to_k.bias")] == []


def test_dropout_acts_in_training_only_also_after_the_mlp():
    adapter = make(dropout=0.5)
    assert torch.equal(adapter(CONTEXT, MASK), adapter(CONTEXT, MASK))
    dropped = []
    adapter.blocks[0].ff.register_forward_hook(lambda m, i, output: dropped.append((output == 0).float()))
    adapter.train()(torch.randn(64, 8, 12), torch.ones(64, 8, dtype=torch.bool))
    assert dropped[0].mean().item() == pytest.approx(0.5, abs=0.03)
