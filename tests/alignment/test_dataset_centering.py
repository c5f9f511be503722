"""Centering by dataset: telling datasets apart is no alignment."""

import torch
from support.alignments import make_alignment

from lerobot_lara.alignment.diagnostics import alignment_diagnostics
from lerobot_lara.alignment.objective import center


def test_center_subtracts_the_mean_of_each_dataset():
    x, dataset = torch.randn(7, 3), torch.tensor([4, 0, 4, 0, 4, 9, 0])
    centered, comparable = center(x, torch.ones(7, dtype=torch.bool), dataset)
    for member in (0, 4):
        torch.testing.assert_close(
            centered[dataset == member], x[dataset == member] - x[dataset == member].mean(0)
        )
    assert comparable.tolist() == [True] * 5 + [False, True]
    assert centered[5].abs().max() < 1e-6


def test_knowing_the_dataset_earns_nothing():
    """A prediction that is constant within each dataset scores well over the whole batch, and not within each."""
    torch.manual_seed(0)
    dataset = torch.arange(64) % 2
    target = torch.randn(64, 8) * 0.1 + 5 * torch.eye(8)[dataset]
    alignment = make_alignment(8, 8, head="linear")
    torch.nn.init.eye_(alignment.alignment_head.weight)
    torch.nn.init.zeros_(alignment.alignment_head.bias)
    hidden = torch.eye(8)[dataset][:, None] + 1e-4 * torch.randn(64, 1, 8)
    plain, predicted = alignment(hidden, target)
    predicted = predicted.detach()
    by_dataset, *_ = alignment(hidden, target, dataset_index=dataset)
    assert plain < 0.05
    assert by_dataset > 0.8
    assert alignment_diagnostics(predicted, target)["alignment_centered_cosine"] > 0.9
    assert (
        abs(alignment_diagnostics(predicted, target, dataset_index=dataset)["alignment_centered_cosine"])
        < 0.2
    )


def test_samples_alone_in_their_dataset_add_nothing():
    torch.manual_seed(0)
    alignment = make_alignment(4, 4)
    hidden, target = torch.randn(5, 1, 4), torch.randn(5, 4)
    dataset = torch.tensor([0, 0, 1, 0, 0])
    with_loner, *_ = alignment(hidden, target, dataset_index=dataset)
    keep = dataset == 0
    without, *_ = alignment(hidden[keep], target[keep], dataset_index=dataset[keep])
    torch.testing.assert_close(with_loner, without)
    alone, *_ = alignment(hidden[:2], target[:2], dataset_index=torch.tensor([0, 1]))
    assert alone == 0 and alone.requires_grad


def test_diagnostics_leave_out_what_is_alone():
    """Perfect alignment stays perfect, however many samples are the only ones of their dataset."""
    torch.manual_seed(0)
    target, dataset = torch.randn(8, 4), torch.tensor([0, 0, 0, 1, 2, 3, 4, 5])
    found = alignment_diagnostics(target, target, dataset_index=dataset)
    assert abs(found["alignment_centered_cosine"] - 1) < 1e-6
    assert found["alignment_retrieval"] == 1


def test_invalid_pairs_leave_their_dataset():
    torch.manual_seed(0)
    alignment = make_alignment(4, 4)
    hidden, target, dataset = torch.randn(6, 1, 4), torch.randn(6, 4), torch.tensor([0, 0, 0, 1, 1, 1])
    valid = torch.tensor([True, True, False, True, True, False])
    masked, *_ = alignment(hidden, target, dataset_index=dataset, pair_valid=valid)
    picked, *_ = alignment(hidden[valid], target[valid], dataset_index=dataset[valid])
    torch.testing.assert_close(masked, picked)


def test_the_plain_cosine_knows_no_datasets():
    torch.manual_seed(0)
    alignment = make_alignment(4, 4, centering=False)
    hidden, target = torch.randn(5, 1, 4), torch.randn(5, 4)
    by_dataset, *_ = alignment(hidden, target, dataset_index=torch.tensor([0, 0, 1, 0, 2]))
    torch.testing.assert_close(by_dataset, alignment(hidden, target)[0])


def test_rows_that_do_not_count_are_no_candidates_of_the_retrieval():
    torch.manual_seed(0)
    target = torch.randn(8, 4)
    predicted = target + 0.1 * torch.randn(8, 4)
    # The last row, which does not count, would be the nearest to the first.
    target[7] = predicted[0] - predicted[:7].mean(0) + target[:7].mean(0)
    valid = torch.arange(8) < 7
    found = alignment_diagnostics(predicted, target, valid)
    kept = alignment_diagnostics(predicted[:7], target[:7])
    for name, value in kept.items():
        torch.testing.assert_close(found[name], value, msg=name)
    assert found["alignment_retrieval"] == 1
