"""Means per dataset, and samples of a mixture inside the policies."""

import pytest
import torch
from dit.policies import fake_batch, make_policy

from lerobot_lara.dataset_log import DatasetMeans


def test_means_per_dataset_over_valid_samples():
    means = DatasetMeans(["a", "b", "c"])
    values, index = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0, 0, 1, 1])
    first = means("loss", values, torch.tensor([True, True, True, False]), index)
    assert first == {"loss/a": 1.5, "loss/b": 3.0, "loss/c": 2.0}  # c: that of the batch, until seen
    second = means("loss", values, None, torch.tensor([2, 2, 2, 0]))
    assert second == {"loss/a": 4.0, "loss/b": 3.0, "loss/c": 2.0}  # b: as before
    assert means("loss", values, None, None) == {}
    assert DatasetMeans([])("loss", values, None, index) == {}


def test_action_free_samples_do_not_rescale_the_flow_loss():
    """The loss of two labelled samples is the same alone and among six without actions."""
    torch.manual_seed(0)
    policy, batch = make_policy().train(), fake_batch(8)
    batch["action_is_pad"][2:] = True

    def loss_of(batch):
        torch.manual_seed(1)
        return policy(batch)

    mixed, log = loss_of(batch | {"observation.dataset_index": torch.zeros(8, dtype=torch.long)})
    assert log["labelled_share"] == 0.25
    noise_of_free = batch | {"action": torch.cat([batch["action"][:2], batch["action"][2:] + 5])}
    torch.testing.assert_close(loss_of(noise_of_free)[0], mixed)


def test_dimensions_beyond_the_target_reach_the_policy():
    torch.manual_seed(0)
    policy, batch = make_policy(max_action_dim=6, max_state_dim=5).train(), fake_batch(4)
    batch["action_dim_is_pad"] = torch.zeros(4, 6, dtype=torch.bool)
    rest = {
        "observation.action_rest": torch.randn(4, *batch["action"].shape[1:-1], 2),
        "observation.state_rest": torch.randn(4, 5 - batch["observation.state"].shape[-1]),
    }

    def loss_of(batch):
        torch.manual_seed(1)
        return policy(batch)[0]

    whole = loss_of(batch | rest)
    for key, value in rest.items():
        assert not torch.equal(whole, loss_of(batch | rest | {key: value + 1})), key
    with pytest.raises(ValueError, match=r"7 action dimensions, but `max_action_dim` leaves room for 6"):
        loss_of(batch | {"observation.action_rest": torch.randn(4, *batch["action"].shape[1:-1], 3)})


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
