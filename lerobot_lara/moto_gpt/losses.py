"""The losses of Moto-GPT (TencentARC/Moto, moto_gpt_trainer.py): cross-entropy of codes, smooth L1 of actions.

Means are over the valid elements of all processes, and 0, still in the graph, where there are none.

Legend: B batch, T latent steps, L latent tokens of a step, V codes, K actions of a step, A action dim.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from lerobot_lara.training.distributed import masked_mean


def latent_loss(logits: Tensor, latent_ids: Tensor, latent_valid: Tensor) -> Tensor:
    """Cross-entropy of the latent tokens.

    Args:
        logits: (B, T, L, V).
        latent_ids: (B, T, L) int64 in [0, V), also where it is not valid.
        latent_valid: (B, T) bool.

    Returns:
        Scalar, in nats per token.
    """
    return masked_mean(latent_errors(logits, latent_ids), latent_valid)


def latent_errors(logits: Tensor, latent_ids: Tensor) -> Tensor:
    """Cross-entropy of each step, mean over its tokens: (B, T)."""
    errors = F.cross_entropy(logits.float().flatten(0, 2), latent_ids.flatten(), reduction="none")
    return errors.view(latent_ids.shape).mean(-1)


def action_losses(
    predicted: Tensor, actions: Tensor, valid: Tensor, *, gripper_index: int | None, gripper_loss: str
) -> dict[str, Tensor]:
    """Losses of arm and gripper.

    Args:
        predicted: (B, T, K, A), that of the gripper as its head puts it out.
        actions: (B, T, K, A), normalized.
        valid: (B, T, K) bool, False beyond the episode's end and in samples without actions; or (B, T, K, A).
        gripper_index: Dimension of the gripper; None for none.
        gripper_loss: "smooth_l1", or "bce" for a gripper that is open or closed: targets above 0 count as 1.

    Returns:
        `arm_loss`, and `gripper_loss` if there is a gripper.
    """
    valid = valid[..., None] if valid.ndim < predicted.ndim else valid
    predicted = predicted.float()
    errors = F.smooth_l1_loss(predicted, actions.float(), reduction="none")  # beta 1
    if gripper_index is None:
        return {"arm_loss": masked_mean(errors, valid)}
    is_gripper = torch.zeros(predicted.shape[-1], dtype=torch.bool, device=predicted.device)
    is_gripper[gripper_index] = True
    gripper = errors[..., gripper_index]
    if gripper_loss == "bce":
        closed = (actions[..., gripper_index] > 0).float()
        gripper = F.binary_cross_entropy_with_logits(predicted[..., gripper_index], closed, reduction="none")
    return {
        "arm_loss": masked_mean(errors, valid & ~is_gripper),
        "gripper_loss": masked_mean(gripper, valid.expand_as(errors)[..., gripper_index]),
    }
