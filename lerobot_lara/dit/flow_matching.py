"""Flow matching on action chunks (paper §3; arXiv 2210.02747), as pure functions.

The time convention of the whole package, stated once: **t = 0 is noise, t = 1 is actions**, the path is the
straight line `(1 - t) * noise + t * actions`, and the velocity along it is `actions - noise`.

Legend: B batch, T action chunk, A action dim.
"""

import torch
from torch import Tensor

from lerobot_lara.training.distributed import masked_mean


def sample_timestep(
    batch_size: int,
    *,
    alpha: float,
    beta: float,
    s: float,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draws flow times with more mass near the noise, as pi0 and GR00T do.

    Args:
        batch_size: B.
        alpha: First Beta parameter.
        beta: Second Beta parameter.
        s: Largest Beta draw that still maps to a non-negative time.
        device: Where the result lives. The draw itself happens on the CPU: MPS has no Beta sampler.

    Returns:
        (B,) float32 in [0, 1].
    """
    concentration = torch.tensor([alpha, beta], dtype=torch.float32)
    draw = torch.distributions.Beta(concentration[0], concentration[1], validate_args=False).sample(
        (batch_size,)
    )
    return timestep_from_beta(draw, s=s).clamp(min=0.0).to(device)


def timestep_from_beta(draw: Tensor, *, s: float) -> Tensor:
    """Maps a Beta draw in [0, 1] to the flow time `(s - draw) / s`; draws above `s` come out just below 0."""
    return (s - draw) / s


def interpolate(noise: Tensor, actions: Tensor, timestep: Tensor) -> Tensor:
    """The noisy actions at flow time t: `(1 - t) * noise + t * actions`.

    Args:
        noise: (B, T, A).
        actions: (B, T, A), normalized.
        timestep: (B,) in [0, 1].

    Returns:
        (B, T, A).
    """
    t = timestep[:, None, None].to(actions.dtype)
    return (1 - t) * noise + t * actions


def path_velocity(noise: Tensor, actions: Tensor) -> Tensor:
    """The velocity `actions - noise` of the straight path, (B, T, A): what the network predicts."""
    return actions - noise


def flow_matching_loss(predicted: Tensor, velocity: Tensor, valid: Tensor) -> Tensor:
    """Mean squared error of the velocity over the valid elements of all processes.

    Args:
        predicted: (B, T, A), by the network.
        velocity: (B, T, A), `path_velocity(noise, actions)`.
        valid: bool, broadcastable to (B, T, A): False at padded steps and padded action dimensions.

    Returns:
        Scalar; 0, still in the graph, where nothing is valid.
    """
    return masked_mean((predicted.float() - velocity.float()).square(), valid)


def sample_errors(predicted: Tensor, velocity: Tensor, valid: Tensor) -> Tensor:
    """Mean squared error of each sample over its valid elements, (B,); arguments of `flow_matching_loss`."""
    weights = valid.expand_as(predicted).float()
    squares = (predicted.float() - velocity.float()).square() * weights
    return squares.sum((1, 2)) / weights.sum((1, 2)).clamp(min=1)
