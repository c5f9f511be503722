"""Centering by dataset: telling datasets apart is no alignment."""

import torch

from lerobot_lara.alignment.diagnostics import alignment_diagnostics
from lerobot_lara.alignment.objective import LatentAlignment, center


def test_center_subtracts_the_mean_of_each_group():
    x, group = torch.randn(7, 3), torch.tensor([4, 0, 4, 0, 4, 9, 0])
    centered, comparable = center(x, group)
    for member in (0, 4):
        torch.testing.assert_close(centered[group == member], x[group == member] - x[group == member].mean(0))
    assert comparable.tolist() == [True] * 5 + [False, True]
    assert centered[5].abs().max() < 1e-6


def test_knowing_the_dataset_earns_nothing():
    """A prediction that is constant within each dataset scores well over the whole batch, and not by group."""
    torch.manual_seed(0)
    group = torch.arange(64) % 2
    target = torch.randn(64, 8) * 0.1 + 5 * torch.eye(8)[group]
    alignment = LatentAlignment(hidden_width=8, latent_width=8, head="linear")
    torch.nn.init.eye_(alignment.alignment_head.weight)
    torch.nn.init.zeros_(alignment.alignment_head.bias)
    hidden = torch.eye(8)[group][:, None] + 1e-4 * torch.randn(64, 1, 8)
    plain, *pair = alignment(hidden, target)
    grouped, *_ = alignment(hidden, target, group=group)
    assert plain < 0.05
    assert grouped > 0.8
    assert alignment_diagnostics(*pair)["alignment_centered_cosine"] > 0.9
    assert abs(alignment_diagnostics(*pair, group)["alignment_centered_cosine"]) < 0.2


def test_samples_alone_in_their_dataset_add_nothing():
    torch.manual_seed(0)
    alignment = LatentAlignment(hidden_width=4, latent_width=4)
    hidden, target = torch.randn(5, 1, 4), torch.randn(5, 4)
    group = torch.tensor([0, 0, 1, 0, 0])
    with_loner, *_ = alignment(hidden, target, group=group)
    keep = group == 0
    without, *_ = alignment(hidden[keep], target[keep], group=group[keep])
    torch.testing.assert_close(with_loner, without)
    alone, *_ = alignment(hidden[:2], target[:2], group=torch.tensor([0, 1]))
    assert alone == 0 and alone.requires_grad


def test_diagnostics_leave_out_what_is_alone():
    """Perfect alignment stays perfect, however many samples are the only ones of their dataset."""
    torch.manual_seed(0)
    target, group = torch.randn(8, 4), torch.tensor([0, 0, 0, 1, 2, 3, 4, 5])
    found = alignment_diagnostics(target, target, group)
    assert abs(found["alignment_centered_cosine"] - 1) < 1e-6
    assert found["alignment_retrieval"] == 1


def test_invalid_pairs_leave_their_group():
    torch.manual_seed(0)
    alignment = LatentAlignment(hidden_width=4, latent_width=4)
    hidden, target, group = torch.randn(6, 1, 4), torch.randn(6, 4), torch.tensor([0, 0, 0, 1, 1, 1])
    valid = torch.tensor([True, True, False, True, True, False])
    masked, *_ = alignment(hidden, target, group=group, pair_valid=valid)
    picked, *_ = alignment(hidden[valid], target[valid], group=group[valid])
    torch.testing.assert_close(masked, picked)


def test_the_plain_cosine_knows_no_groups():
    torch.manual_seed(0)
    alignment = LatentAlignment(hidden_width=4, latent_width=4, centering=False)
    hidden, target = torch.randn(5, 1, 4), torch.randn(5, 4)
    grouped, *_ = alignment(hidden, target, group=torch.tensor([0, 0, 1, 0, 2]))
    torch.testing.assert_close(grouped, alignment(hidden, target)[0])
