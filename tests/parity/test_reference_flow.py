"""The flow algebra equals the reference's action head (golden/action_head_tiny)."""

from pathlib import Path

import torch
from lerobot.policies.common.flow_matching import euler_integrate
from safetensors.torch import load_file

from lerobot_lara.dit.flow_matching import (
    flow_matching_loss,
    interpolate,
    path_velocity,
    timestep_from_beta,
)

TENSORS = load_file(Path(__file__).parent / "golden" / "action_head_tiny.safetensors")
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def test_timestep():
    timestep = timestep_from_beta(TENSORS["in/beta_sample"], s=0.999)
    torch.testing.assert_close(timestep, TENSORS["out/t"], **CLOSE)
    assert torch.equal((timestep * 1000).long(), TENSORS["out/t_discretized"])


def test_noisy_actions_and_velocity():
    noise, actions = TENSORS["in/noise"], TENSORS["in/action"]
    noisy = interpolate(noise, actions, TENSORS["out/t"])
    torch.testing.assert_close(noisy, TENSORS["out/noisy_trajectory"], **CLOSE)
    torch.testing.assert_close(path_velocity(noise, actions), TENSORS["out/velocity"], **CLOSE)


def test_masked_loss():
    prediction, target, mask = (TENSORS[k] for k in ("out/pred_actions", "out/velocity", "in/action_mask"))
    assert not mask.all()
    torch.testing.assert_close(flow_matching_loss(prediction, target, mask), TENSORS["out/loss"], **CLOSE)
    unmasked = flow_matching_loss(prediction, target, torch.ones_like(mask))
    assert abs(unmasked - TENSORS["out/loss"]) > 1e-3


def test_euler_sampling():
    """The integrator the policy uses, LeRobot's, driven as the policy drives it: backwards in its own time."""
    velocities = TENSORS["out/get_action_step_velocity"]  # (steps, B, T, A)
    times = []

    def velocity_to_noise(noisy_actions, time):
        times.append(round(1000 * (1 - time[0].item())))
        return -velocities[len(times) - 1]

    actions = euler_integrate(velocity_to_noise, TENSORS["in/initial_noise"], len(velocities))
    torch.testing.assert_close(actions, TENSORS["out/get_action"], **CLOSE)
    assert times == TENSORS["out/get_action_timesteps"].tolist()
