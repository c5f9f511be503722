"""The flow algebra in closed form, and against the reference's action head (tests/parity)."""

import pytest
import torch

from lerobot_lara.dit.flow_matching import (
    flow_matching_loss,
    interpolate,
    path_velocity,
    sample_timestep,
    timestep_from_beta,
)
from lerobot_lara.training.distributed import masked_mean


def test_path_starts_at_noise_and_ends_at_actions():
    noise, actions = torch.randn(2, 3, 4, 5)
    assert torch.equal(interpolate(noise, actions, torch.zeros(3)), noise)
    assert torch.equal(interpolate(noise, actions, torch.ones(3)), actions)


def test_velocity_is_the_derivative_of_the_path():
    noise, actions = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    t = torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64)
    step = interpolate(noise, actions, t + 1e-6) - interpolate(noise, actions, t)
    torch.testing.assert_close(step / 1e-6, path_velocity(noise, actions), atol=1e-6, rtol=0)


def test_timesteps_are_in_range_and_lean_towards_noise():
    torch.manual_seed(0)
    t = sample_timestep(20_000, alpha=1.5, beta=1.0, s=0.999)
    assert t.min() >= 0 and t.max() <= 1
    # E[Beta(1.5, 1)] = 0.6, so E[t] is about 0.4.
    assert t.mean().item() == pytest.approx(1 - 0.6 / 0.999, abs=0.01)
    assert (t < 0.5).float().mean() > 0.6


def test_beta_draw_of_s_is_time_zero():
    torch.testing.assert_close(
        timestep_from_beta(torch.tensor([0.999, 0.0]), s=0.999), torch.tensor([0.0, 1.0])
    )


def test_masked_elements_do_not_count():
    values = torch.tensor([[1.0, 2.0], [3.0, 100.0]])
    mask = torch.tensor([[True, True], [True, False]])
    assert masked_mean(values, mask) == 2.0
    assert masked_mean(values, torch.zeros_like(mask)) == 0.0


def test_loss_of_nothing_valid_is_zero_with_a_graph():
    velocity = torch.randn(2, 3, 4, requires_grad=True)
    loss = flow_matching_loss(velocity, torch.randn(2, 3, 4), torch.zeros(2, 3, 1, dtype=torch.bool))
    loss.backward()
    assert loss == 0 and torch.equal(velocity.grad, torch.zeros_like(velocity))


def test_processes_share_the_count_of_valid_elements(monkeypatch):
    """The average over two processes is the mean over all valid elements, also if one of them has none."""
    values = [torch.tensor([[2.0], [4.0], [9.0]]), torch.tensor([[6.0], [9.0], [9.0]]), torch.ones(3, 1)]
    masks = [
        torch.tensor([[1], [1], [0]]).bool(),
        torch.tensor([[1], [0], [0]]).bool(),
        torch.zeros(3, 1).bool(),
    ]
    total = [0.0]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda count: count.fill_(total[0]))
    for first, second, expected in ((0, 1, 4.0), (0, 2, 3.0), (2, 2, 0.0)):
        total[0] = float(masks[first].sum() + masks[second].sum())
        mean = (masked_mean(values[first], masks[first]) + masked_mean(values[second], masks[second])) / 2
        assert mean.item() == pytest.approx(expected)
