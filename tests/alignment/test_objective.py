import pytest
import torch
from support.alignments import make_alignment
from torch.nn import functional as F

from lerobot_lara.alignment.diagnostics import alignment_diagnostics
from lerobot_lara.lam.metrics import effective_rank

HIDDEN, LATENT = 6, 8


def make(**options):
    torch.manual_seed(0)
    return make_alignment(HIDDEN, LATENT, **options)


def batch(size=16):
    torch.manual_seed(1)
    return torch.randn(size, 5, HIDDEN), torch.randn(size, 2, LATENT // 2) + 3.0


def test_plain_cosine_is_the_reference_formula():
    alignment, (hidden, latent) = make(head="linear", pooling="last", centering=False), batch()
    loss, _ = alignment(hidden, latent)
    expected = (1 - F.cosine_similarity(alignment.alignment_head(hidden[:, -1]), latent.flatten(1))).mean()
    torch.testing.assert_close(loss, expected)


def test_mean_pooling_and_last_pooling_skip_padding():
    hidden, latent = batch()
    valid = torch.ones(16, 5, dtype=torch.bool)
    valid[:, 3:] = False
    for pooling, pooled in (("mean", hidden[:, :3].mean(1)), ("last", hidden[:, 2])):
        alignment = make(pooling=pooling).eval()
        _, predicted = alignment(hidden, latent, token_valid=valid)
        torch.testing.assert_close(predicted, alignment.alignment_head(pooled))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_hidden_states_in_half_precision_are_pooled_in_that_of_the_head(dtype):
    hidden, latent = batch()
    hidden = hidden.to(dtype)
    loss, predicted = make()(hidden, latent)
    expected, same = make()(hidden.float(), latent)
    assert torch.equal(loss, expected) and torch.equal(predicted, same)


def test_invalid_pairs_change_nothing():
    hidden, latent = batch()
    valid = torch.arange(16) < 12
    reference = make().train()
    loss, _ = reference(hidden[:12], latent[:12])
    alignment = make().train()
    masked, predicted = alignment(hidden, latent, pair_valid=valid)
    torch.testing.assert_close(loss, masked)
    target = latent.flatten(1)
    masked = alignment_diagnostics(predicted, target, valid)
    kept = alignment_diagnostics(predicted[:12], target[:12])
    assert {name: value.item() for name, value in masked.items()} == pytest.approx(
        {name: value.item() for name, value in kept.items()}, abs=1e-6
    )


@pytest.mark.parametrize("num_valid", [0, 1])
def test_too_few_valid_pairs_are_zero_with_a_graph(num_valid):
    hidden, latent = batch()
    hidden.requires_grad_()
    valid = torch.arange(16) < num_valid
    loss, predicted = make()(hidden, latent, pair_valid=valid)
    loss.backward()
    assert loss == 0 and hidden.grad.abs().max() == 0
    assert not any(alignment_diagnostics(predicted.detach(), latent.flatten(1), valid).values())


def test_centering_removes_constants_from_both_sides():
    alignment, (hidden, latent) = make(head="linear"), batch()
    before = alignment(hidden, latent)[0]
    torch.testing.assert_close(before, alignment(hidden, latent + 5)[0])
    with torch.no_grad():
        alignment.alignment_head.bias += 5
    torch.testing.assert_close(before, alignment(hidden, latent)[0])


def test_drifting_constants_are_no_solution():
    """Two constants that move together from step to step fool a running mean; the loss must not fall."""
    alignment, (hidden, latent) = make(head="linear").train(), batch(256)
    for step in range(20):
        with torch.no_grad():
            alignment.alignment_head.weight.zero_()
            alignment.alignment_head.bias.fill_(float(step))
        loss, _ = alignment(hidden, torch.full_like(latent, float(step)))
    assert loss.item() > 0.9


@pytest.mark.parametrize("centering", [True, False])
def test_a_constant_prediction_pays_only_without_centering(centering):
    """The reference's loss is nearly solved by a constant; the centered one gives it the worst of chance."""
    alignment, (hidden, latent) = make(head="linear", centering=centering).train(), batch(256)
    with torch.no_grad():
        alignment.alignment_head.weight.zero_()
        alignment.alignment_head.bias.copy_(latent.flatten(1).mean(0))
    loss, predicted = alignment(hidden, latent)
    assert (loss.item() > 0.9) if centering else (loss.item() < 0.1)
    numbers = alignment_diagnostics(predicted, latent.flatten(1))
    assert numbers["alignment_cosine"] > 0.9, "the plain cosine is fooled"
    assert abs(numbers["alignment_centered_cosine"]) < 1e-6
    assert numbers["alignment_retrieval"].item() == pytest.approx(1 / 256)


def test_diagnostics_of_a_perfect_and_of_a_random_prediction():
    _, latent = batch(64)
    target = latent.flatten(1)
    perfect = alignment_diagnostics(2 * target + 5, target)
    assert perfect["alignment_retrieval"] == 1 and perfect["alignment_centered_cosine"] > 0.999
    random = alignment_diagnostics(torch.randn(64, LATENT), target)
    assert random["alignment_retrieval"] < 0.2 and abs(random["alignment_centered_cosine"]) < 0.2


def test_effective_rank_counts_the_directions_in_use():
    torch.manual_seed(0)
    assert effective_rank(torch.full((32, LATENT), 0.3)) == 0
    line = torch.randn(512, 1) @ torch.randn(1, LATENT) + 7
    assert effective_rank(line).item() == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.randn(5000, LATENT)).item() == pytest.approx(LATENT, rel=0.02)


def test_a_constant_latent_action_is_seen_as_rank_zero():
    _, latent = batch(64)
    numbers = alignment_diagnostics(torch.randn(64, LATENT), torch.full_like(latent.flatten(1), 0.7))
    assert numbers["latent_effective_rank"] == 0
    assert numbers["alignment_retrieval"].item() == pytest.approx(1 / 64)
