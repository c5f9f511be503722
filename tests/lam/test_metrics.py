"""Diagnostics in closed form, and at their worst for constants."""

import pytest
import torch

from lerobot_lara.lam.metrics import WINDOW, CodeUsage, effective_rank, psnr


def test_psnr_in_closed_form() -> None:
    target = torch.rand(2, 3, 8, 8)
    assert psnr(target + 0.1, target).item() == pytest.approx(20.0, abs=1e-3)
    assert psnr(target, target).item() == pytest.approx(100.0)


@pytest.mark.parametrize("num_pairs", [6, 4000])
def test_effective_rank_counts_directions(num_pairs: int) -> None:
    torch.manual_seed(0)
    line = torch.randn(num_pairs, 1, 1) * torch.randn(1, 2, 4) + 3
    assert effective_rank(line).item() == pytest.approx(1.0, abs=1e-4)
    sphere = torch.randn(num_pairs, 2, 4)
    assert effective_rank(sphere) > (7.8 if num_pairs > 1000 else 2)
    assert effective_rank(sphere) <= min(8, num_pairs - 1)


def test_effective_rank_of_a_constant_is_zero_even_with_rounding_noise() -> None:
    constant = torch.randn(1, 2, 4).expand(32, 2, 4)
    assert effective_rank(constant) == 0
    assert effective_rank(constant + 1e-6 * torch.randn(32, 2, 4)) == 0
    assert effective_rank(torch.zeros(32, 2, 4)) == 0


def test_code_usage_in_closed_form() -> None:
    usage = CodeUsage(8).eval()
    perplexity, live = usage(torch.tensor([[0, 1], [2, 3]]))
    assert perplexity.item() == pytest.approx(4.0) and live == 4
    perplexity, live = usage(torch.zeros(16, 2, dtype=torch.long))
    assert perplexity.item() == pytest.approx(1.0) and live == 1


def test_code_usage_remembers_training_batches_for_a_window() -> None:
    usage = CodeUsage(4).train()
    usage(torch.tensor([3]))
    for _ in range(WINDOW - 1):
        perplexity, live = usage(torch.tensor([0]))
    assert live == 2 and 1.0 < perplexity < 1.2
    for _ in range(WINDOW):
        _, live = usage(torch.tensor([0]))
    assert live == 2  # still within two windows
    _, live = usage(torch.tensor([0]))
    assert live == 1
    assert not usage.state_dict()
