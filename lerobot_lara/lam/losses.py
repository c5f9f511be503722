"""Losses over the valid samples of a batch. Shapes: B batch, h image side."""

from torch import Tensor
from torch.nn import functional as F

from lerobot_lara.training.distributed import masked_mean, mean_over_processes


def sample_mean(values: Tensor) -> Tensor:
    """Mean of each sample (B, ...) -> (B,)."""
    return values.flatten(1).mean(1)


def masked_mse(prediction: Tensor, target: Tensor, valid: Tensor | None) -> Tensor:
    """Mean squared error over the samples (B, ...) that `valid` (B,) marks; None is all of them."""
    return masked_mean(sample_mean(F.mse_loss(prediction, target, reduction="none")), valid)


def pair_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each sample (B, ...) -> (B,), without a gradient."""
    return sample_mean((prediction.detach() - target.detach()).float().square())


def reconstruction_loss(
    prediction: Tensor, current: Tensor, target: Tensor, valid: Tensor | None, *, change_weight: float
) -> Tensor:
    """Squared pixel error, optionally spent where something moves.

    Most of a robot's image stands still and can be copied. A share of w / (1 + w) of the loss is therefore
    weighted in proportion to how much each pixel changes, relative to the batch's mean change; still pairs
    weigh less than moving ones, and the weights average to 1.

    Args:
        prediction: Predicted future frame (B, 3, h, h).
        current: Current frame, likewise, in [0, 1].
        target: Future frame, likewise.
        valid: (B,) bool, or None for all.
        change_weight: w; 0 is the plain mean squared error.
    """
    error = (prediction - target).square().mean(1)  # (B, h, h)
    if change_weight > 0:
        change = (target - current).abs().mean(1)  # (B, h, h)
        change = change / mean_over_processes(masked_mean(sample_mean(change), valid)).clamp(min=1e-6)
        error = error * (1 + change_weight * change) / (1 + change_weight)
    return masked_mean(sample_mean(error), valid)
