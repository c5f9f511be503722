"""The contrastive alignment loss: what it is, and what it gives no prize for."""

import math

import pytest
import torch
from support.alignments import make_alignment
from torch.nn import functional as F

from lerobot_lara.alignment.objective import contrast

SIZE, WIDTH = 12, 6
ALL = torch.ones(SIZE, dtype=torch.bool)


def identity_alignment(**options):
    """An alignment whose prediction is the pooled hidden state itself."""
    alignment = make_alignment(WIDTH, WIDTH, head="linear", **options)
    torch.nn.init.eye_(alignment.alignment_head.weight)
    torch.nn.init.zeros_(alignment.alignment_head.bias)
    return alignment


def test_is_the_mean_cross_entropy_of_both_directions():
    torch.manual_seed(0)
    predicted, target = torch.randn(SIZE, WIDTH), torch.randn(SIZE, WIDTH)
    found = contrast(predicted, target, ALL, None, temperature=0.2)
    for row in range(SIZE):
        forward = (
            torch.stack([F.cosine_similarity(predicted[row], target[i], dim=0) for i in range(SIZE)]) / 0.2
        )
        backward = (
            torch.stack([F.cosine_similarity(predicted[i], target[row], dim=0) for i in range(SIZE)]) / 0.2
        )
        expected = -(forward.log_softmax(0)[row] + backward.log_softmax(0)[row]) / 2
        torch.testing.assert_close(found[row], expected)


@pytest.mark.parametrize("centering", [True, False])
def test_a_constant_is_no_better_than_chance(centering):
    torch.manual_seed(0)
    alignment = identity_alignment(loss="contrastive", centering=centering)
    constant = torch.full((SIZE, 3, WIDTH), 0.5)
    loss, *_ = alignment(constant, torch.randn(SIZE, WIDTH))
    assert loss.item() >= math.log(SIZE) - 1e-5


def test_latent_actions_on_a_line_pay_with_the_cosine_only():
    """Joint training draws latent actions onto one line under the cosine, where a sign predicts them perfectly."""
    torch.manual_seed(0)
    line = torch.randn(SIZE, 1) * torch.randn(WIDTH)
    spread = torch.randn(SIZE, WIDTH)
    losses = {
        loss: [identity_alignment(loss=loss)(target[:, None], target)[0].item() for target in (line, spread)]
        for loss in ("cosine", "contrastive")
    }
    assert losses["cosine"] == pytest.approx([0, 0], abs=1e-5)
    assert losses["contrastive"][0] > 1.3 > 0.5 > losses["contrastive"][1]


def test_other_datasets_are_no_candidates():
    torch.manual_seed(0)
    hidden, target, dataset = (
        torch.randn(SIZE, 1, WIDTH),
        torch.randn(SIZE, WIDTH),
        torch.arange(SIZE) % 3 // 2,
    )
    alignment = identity_alignment(loss="contrastive")
    together, *_ = alignment(hidden, target, dataset_index=dataset)
    parts = [alignment(hidden[dataset == g], target[dataset == g])[0] * (dataset == g).sum() for g in (0, 1)]
    torch.testing.assert_close(together, sum(parts) / SIZE)


@pytest.mark.parametrize("centering", [True, False])
def test_pairs_that_are_alone_or_invalid_add_nothing(centering):
    torch.manual_seed(0)
    hidden, target = torch.randn(SIZE, 1, WIDTH, requires_grad=True), torch.randn(SIZE, WIDTH)
    alignment = identity_alignment(loss="contrastive", centering=centering)
    dataset, valid = torch.zeros(SIZE, dtype=torch.long), torch.ones(SIZE, dtype=torch.bool)
    dataset[0], valid[1] = 1, False
    loss, *_ = alignment(hidden, target, dataset_index=dataset, pair_valid=valid)
    expected, *_ = alignment(hidden[2:], target[2:])
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert hidden.grad.isfinite().all()
    assert hidden.grad[:2].abs().max() == 0


def test_low_temperatures_look_at_the_nearest_candidates():
    torch.manual_seed(0)
    target = torch.randn(SIZE, WIDTH)
    warm, cold = (
        identity_alignment(loss="contrastive", temperature=temperature)(target[:, None], target)[0]
        for temperature in (1.0, 0.05)
    )
    assert cold < 0.05 < 0.5 < warm


def test_close_candidates_are_told_apart_under_autocast():
    """In bfloat16 cosines of 0.999 and 1 are the same."""
    angles = torch.linspace(0, 0.5, SIZE)
    target = torch.stack([angles.cos(), angles.sin()], dim=1)
    alignment = identity_alignment(loss="contrastive", centering=False, temperature=0.001)
    alignment.alignment_head = torch.nn.Identity()  # exact under autocast
    hidden = torch.nn.functional.pad(target, (0, WIDTH - 2))
    exact, _ = alignment(hidden[:, None], hidden)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(alignment(hidden[:, None], hidden)[0], exact)
