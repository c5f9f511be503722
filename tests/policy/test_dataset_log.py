"""Means per dataset, and samples of a mixture inside the policies."""

import pytest
import torch
from support.policies import fake_batch, make_policy

from lerobot_lara.policy.dataset_log import DatasetMeans
from lerobot_lara.training.log import read_numbers


def test_means_per_dataset_over_valid_samples():
    averages = DatasetMeans(["a", "b", "c"], [True, True, False])

    def means(*arguments, **options):
        return read_numbers(averages(*arguments, **options))

    values, index = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0, 0, 1, 1])
    first = means("loss", values, torch.tensor([True, True, True, False]), index)
    assert first == {"loss/a": 1.5, "loss/b": 3.0, "loss/c": 2.0}  # c: that of the batch, until seen
    second = means("loss", values, None, torch.tensor([2, 2, 2, 0]))
    assert second == {"loss/a": 4.0, "loss/b": 3.0, "loss/c": 2.0}  # b: as before
    assert means("loss", values, None, None) == {}
    assert DatasetMeans([], [])("loss", values, None, index) == {}
    assert means("loss", values, None, index, of_actions=True).keys() == {"loss/a", "loss/b"}
    means("loss", values + 9, None, index, remember=False)  # held-out batches leave no trace
    assert means("loss", values, None, torch.tensor([1, 1, 1, 1]))["loss/a"] == 1.5


def test_the_policy_logs_each_datasets_own_loss():
    torch.manual_seed(0)
    policy, batch = make_policy().train(), fake_batch(4)
    policy.mixture.means = DatasetMeans(["a", "b"], [True, True])

    def log_of(index):
        torch.manual_seed(1)
        return policy(batch | {"observation.dataset_index": torch.tensor(index)})[1]

    first = log_of([0, 0, 1, 1])
    assert (first["flow_loss/a"] + first["flow_loss/b"]) / 2 == pytest.approx(first["flow_loss"])
    assert first["flow_loss/a"] != pytest.approx(first["flow_loss/b"])
    swapped = log_of([1, 1, 0, 0])
    assert (swapped["flow_loss/a"], swapped["flow_loss/b"]) == (first["flow_loss/b"], first["flow_loss/a"])


def test_a_sample_without_state_gets_the_null_state():
    torch.manual_seed(0)
    policy, batch = make_policy().train(), fake_batch(2)

    def loss_of(state, is_pad):
        torch.manual_seed(1)
        flags = {"observation.state": state, "observation.state_is_pad": torch.tensor(is_pad)}
        return policy(batch | flags)[0]

    state, other = torch.zeros(2, 3), torch.tensor([[0.0] * 3, [5.0] * 3])
    assert torch.equal(loss_of(state, [[False], [True]]), loss_of(other, [[False], [True]]))
    assert not torch.equal(loss_of(state, [[False], [False]]), loss_of(other, [[False], [False]]))


def test_action_free_samples_do_not_rescale_the_flow_loss():
    """The loss of two labeled samples is the same alone and among six without actions."""
    torch.manual_seed(0)
    policy, batch = make_policy().train(), fake_batch(8)
    policy.mixture.means = DatasetMeans(["robot", "video"], [True, False])
    batch["action_is_pad"][2:] = True

    def loss_of(batch):
        torch.manual_seed(1)
        return policy(batch)

    mixed, log = loss_of(batch | {"observation.dataset_index": torch.tensor([0, 0] + [1] * 6)})
    assert log["labeled_share"] == 0.25
    noise_of_free = batch | {"action": torch.cat([batch["action"][:2], batch["action"][2:] + 5])}
    torch.testing.assert_close(loss_of(noise_of_free)[0], mixed)


def test_dimensions_beyond_the_reference_dataset_reach_the_policy():
    torch.manual_seed(0)
    policy, batch = make_policy(max_action_dim=6, max_state_dim=5).train(), fake_batch(4)
    batch["action_dim_is_pad"] = torch.zeros(4, 6, dtype=torch.bool)
    rest = {
        "observation.action_extra": torch.randn(4, *batch["action"].shape[1:-1], 2),
        "observation.state_extra": torch.randn(4, 5 - batch["observation.state"].shape[-1]),
    }

    def loss_of(batch):
        torch.manual_seed(1)
        return policy(batch)[0]

    whole = loss_of(batch | rest)
    for key, value in rest.items():
        assert not torch.equal(whole, loss_of(batch | rest | {key: value + 1})), key
    with pytest.raises(ValueError, match=r"7 action dimensions, but `max_action_dim` leaves room for 6"):
        loss_of(batch | {"observation.action_extra": torch.randn(4, *batch["action"].shape[1:-1], 3)})


def test_a_missing_camera_is_not_looked_at():
    torch.manual_seed(0)
    cameras = ("observation.images.front", "observation.images.wrist")
    policy, batch, camera = make_policy(cameras).eval(), fake_batch(2, cameras), cameras[1]
    batch |= {f"{camera}_is_pad": torch.tensor([[False], [True]])}
    noise = torch.randn(2, policy.config.chunk_size, policy.config.action_dim)
    before = policy.predict_action_chunk(batch, noise=noise)
    changed = policy.predict_action_chunk(batch | {camera: 1 - batch[camera]}, noise=noise)
    assert not torch.allclose(before[0], changed[0])
    assert torch.equal(before[1], changed[1])
