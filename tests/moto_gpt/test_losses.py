"""The losses in closed form: what counts, what does not, and what a batch without anything valid costs."""

import math

import pytest
import torch

from lerobot_lara.moto_gpt.losses import action_losses, latent_errors, latent_loss


def test_cross_entropy_is_the_mean_over_tokens_and_then_over_the_valid_steps_of_the_batch():
    """Three valid steps of errors 0, 0 and log 5: a mean per sample first would be another."""
    logits, ids = torch.zeros(2, 2, 3, 5), torch.ones(2, 2, 3, dtype=torch.int64)
    logits[0, :, :, 1] = 100
    valid = torch.tensor([[True, True], [True, False]])
    assert latent_errors(logits, ids)[:, 0].tolist() == pytest.approx([0, math.log(5)])
    assert latent_loss(logits, ids, valid).item() == pytest.approx(math.log(5) / 3)
    logits[1, 1] = 50 * torch.randn(3, 5)
    assert latent_loss(logits, ids, valid).item() == pytest.approx(math.log(5) / 3)


def test_smooth_l1_bends_at_one():
    predicted, actions = torch.zeros(1, 1, 1, 2), torch.tensor([[[[0.5, 3.0]]]])
    valid = torch.ones(1, 1, 1, dtype=torch.bool)
    found = action_losses(predicted, actions, valid, gripper_index=None, gripper_loss="smooth_l1")
    assert found.keys() == {"arm_loss"}
    assert found["arm_loss"].item() == pytest.approx((0.5**2 / 2 + (3 - 0.5)) / 2)


@pytest.mark.parametrize("gripper_loss", ["smooth_l1", "bce"])
@pytest.mark.parametrize("gripper_index", [-1, 0])
def test_arm_and_gripper_do_not_count_for_each_other(gripper_index, gripper_loss):
    predicted, actions = torch.randn(2, 2, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(2, 2, 3, dtype=torch.bool)
    options = {"gripper_index": gripper_index, "gripper_loss": gripper_loss}
    first = action_losses(predicted, actions, valid, **options)
    predicted[..., gripper_index] += 1
    second = action_losses(predicted, actions, valid, **options)
    assert second["arm_loss"] == first["arm_loss"] and second["gripper_loss"] != first["gripper_loss"]
    predicted[..., 1] += 1
    third = action_losses(predicted, actions, valid, **options)
    assert third["arm_loss"] != second["arm_loss"] and third["gripper_loss"] == second["gripper_loss"]


@pytest.mark.parametrize("gripper_index", [None, -1, 0])
def test_actions_that_are_not_valid_do_not_count(gripper_index):
    predicted, actions = torch.randn(2, 2, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    valid = torch.tensor([[[1, 1, 0], [1, 0, 0]], [[0, 0, 0], [1, 0, 0]]]).bool()
    options = {"gripper_index": gripper_index, "gripper_loss": "smooth_l1"}
    expected = action_losses(predicted[valid], actions[valid], torch.ones(4, dtype=torch.bool), **options)
    found = action_losses(predicted, actions, valid, **options)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.item() == pytest.approx(expected[name].item()), name


def test_dimensions_that_are_not_valid_do_not_count():
    """(B, T, K, A): robots of a mixture have different numbers of dimensions."""
    predicted, actions = torch.zeros(1, 1, 2, 3), torch.full((1, 1, 2, 3), 0.2)
    actions[..., 1] = 9
    valid = torch.tensor([True, False, True]).expand(1, 1, 2, 3)
    found = action_losses(predicted, actions, valid, gripper_index=None, gripper_loss="smooth_l1")
    assert found["arm_loss"].item() == pytest.approx(0.2**2 / 2)
    hidden_gripper = action_losses(predicted, actions, valid, gripper_index=1, gripper_loss="smooth_l1")
    assert hidden_gripper["gripper_loss"] == 0


@pytest.mark.parametrize("open_is", [0.0, -1.0])
def test_a_gripper_is_closed_above_zero(open_is):
    """Whether the dataset, or its normalization, says 0 or -1 for open."""
    predicted = torch.tensor([2.0, -1.0]).view(1, 1, 2, 1)
    actions = torch.tensor([1.0, open_is]).view(1, 1, 2, 1)
    valid = torch.ones(1, 1, 2, dtype=torch.bool)
    found = action_losses(predicted, actions, valid, gripper_index=0, gripper_loss="bce")
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))) / 2
    assert found["gripper_loss"].item() == pytest.approx(expected)


@pytest.mark.parametrize("gripper_loss", ["smooth_l1", "bce"])
def test_a_batch_without_anything_valid_costs_nothing_and_keeps_its_graph(gripper_loss):
    logits = torch.randn(2, 2, 3, 5, requires_grad=True)
    predicted = torch.randn(2, 2, 2, 4, requires_grad=True)
    nothing = torch.zeros(2, 2, 2, dtype=torch.bool)
    found = action_losses(
        predicted, torch.randn(2, 2, 2, 4), nothing, gripper_index=-1, gripper_loss=gripper_loss
    )
    found["latent_loss"] = latent_loss(logits, torch.zeros(2, 2, 3, dtype=torch.int64), nothing[..., 0])
    assert [value.item() for value in found.values()] == [0, 0, 0]
    sum(found.values()).backward()
    assert not logits.grad.any() and not predicted.grad.any()


def test_losses_of_half_precision_are_computed_in_full():
    """Of a thousand elements, each adds less than what bfloat16 resolves."""
    generator = torch.Generator().manual_seed(0)
    predicted = torch.randn(4, 2, 30, 7, generator=generator).bfloat16()
    logits = torch.randn(4, 2, 30, 7, generator=generator).bfloat16()
    ids = torch.randint(7, (4, 2, 30), generator=generator)
    valid, actions = torch.ones(4, 2, 30, dtype=torch.bool), torch.zeros(4, 2, 30, 7)
    options = {"gripper_index": -1, "gripper_loss": "bce"}
    found = action_losses(predicted, actions, valid, **options)
    found["latent_loss"] = latent_loss(logits, ids, valid[..., 0])
    expected = action_losses(predicted.float(), actions, valid, **options)
    expected["latent_loss"] = latent_loss(logits.float(), ids, valid[..., 0])
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name
