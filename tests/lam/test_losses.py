"""Losses average over valid pairs; the change weight moves the loss to where something happens."""

import pytest
import torch

from lerobot_lara.lam.losses import reconstruction_loss, sample_mean
from lerobot_lara.training.distributed import masked_mean


def test_masked_mean() -> None:
    values = torch.tensor([[1.0, 3.0], [10.0, 10.0]], requires_grad=True)
    assert masked_mean(sample_mean(values), None).item() == 6
    assert masked_mean(sample_mean(values), torch.tensor([True, False])).item() == 2
    nothing = masked_mean(sample_mean(values), torch.tensor([False, False]))
    nothing.backward()
    assert nothing.item() == 0 and values.grad.abs().sum() == 0


@pytest.mark.parametrize("change_weight", [0.0, 1.0, 5.0])
def test_change_weights_average_to_one(change_weight: float) -> None:
    """With the same error everywhere, the weighting makes no difference."""
    current, target = torch.rand(4, 3, 8, 8), torch.rand(4, 3, 8, 8)
    valid = torch.tensor([True, True, False, True])
    loss = reconstruction_loss(target + 0.1, current, target, valid, change_weight=change_weight)
    assert loss.item() == pytest.approx(0.01, rel=1e-4)


def test_change_weight_spends_its_share_on_what_changes() -> None:
    current = torch.zeros(1, 3, 8, 8)
    target = current.clone()
    target[..., :4, :] = 0.8  # the upper half changes
    wrong_where_it_moves, wrong_where_it_is_still = target.clone(), target.clone()
    wrong_where_it_moves[..., :4, :] += 0.2
    wrong_where_it_is_still[..., 4:, :] += 0.2
    for weight in (0.0, 1.0, 3.0):
        moving, still = (
            reconstruction_loss(p, current, target, None, change_weight=weight).item()
            for p in (wrong_where_it_moves, wrong_where_it_is_still)
        )
        assert moving / still == pytest.approx((1 + 2 * weight) / 1, rel=1e-4)


def test_still_pairs_do_not_divide_by_zero() -> None:
    still = torch.full((2, 3, 8, 8), 0.5)
    loss = reconstruction_loss(still + 0.1, still, still, None, change_weight=2.0)
    assert loss.item() == pytest.approx(0.01 / 3, rel=1e-3)
