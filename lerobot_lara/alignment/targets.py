"""What a policy can be aligned to when no latent action model (LAM) runs: labels, its own actions, or features of o_t.

Labels are latent actions that were computed before. The other two are the controls that tell how much of a gain is the
latent action's: the same head and loss, aimed at something that needs neither a LAM nor video.

Legend: B batch, T action chunk, A action dim, P tokens of an image, F their width, Z width of the target.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lerobot_lara.batch.keys import (
    ACTION,
    ACTION_DIM_IS_PAD,
    LATENT_ACTION,
    LATENT_ACTION_IS_PAD,
)

# Target and which samples have one: (B, Z) and (B,) bool.
Target = tuple[Tensor, Tensor]
# Features are averaged over the cells of a grid of this side, which says roughly where things are.
FEATURE_GRID = 2


def labeled_target(batch: Mapping[str, Any]) -> Target:
    """The latent actions of a batch with labels.

    Raises:
        ValueError: The batch has none.
    """
    if LATENT_ACTION not in batch:
        raise ValueError(
            f"The batch lacks `{LATENT_ACTION}`, which `lerobot-train` adds to the samples of labeled datasets. Train "
            "with it, or pass --policy.alignment_source=lam."
        )
    return batch[LATENT_ACTION].float(), ~batch[LATENT_ACTION_IS_PAD].bool()


def action_target(batch: Mapping[str, Any], *, steps: int, dim: int) -> Target:
    """The sample's own action chunk, normalized; a sample without any action has none.

    Args:
        batch: Its `action` may be padded to more steps and dimensions than the policy's data has.
        steps: T.
        dim: A.

    Returns:
        (B, T * A) float32, where steps beyond the episode's end and dimensions that a sample's robot lacks are 0; and
        (B,) bool, the samples that have any action.
    """
    actions = batch[ACTION].float()[:, :steps, :dim]  # (B, T, A)
    if ACTION_DIM_IS_PAD in batch:
        actions = actions.masked_fill(batch[ACTION_DIM_IS_PAD][:, None, :dim], 0)
    is_pad = batch.get(f"{ACTION}_is_pad")
    if is_pad is None:
        return actions.flatten(1), torch.ones(len(actions), dtype=torch.bool, device=actions.device)
    is_pad = is_pad.bool()[:, :steps]
    return actions.masked_fill(is_pad[..., None], 0).flatten(1), ~is_pad.all(dim=1)


def feature_width(encoder: nn.Module) -> int:
    """Z of `feature_target`."""
    return FEATURE_GRID**2 * int(encoder.width)  # type: ignore[arg-type]  # an attribute of image encoders


@torch.no_grad()
def feature_target(encoder: nn.Module, images: Tensor) -> Target:
    """Features of o_t, averaged over the quarters of the image.

    Args:
        encoder: Frozen; maps (B, 3, H, W) in [0, 1] to tokens (B, P, F).
        images: (B, 3, H, W) in [0, 1].

    Returns:
        (B, 4 * F) float32, and (B,) bool, all True.
    """
    tokens = encoder(images)
    side = round(tokens.shape[1] ** 0.5)
    if side**2 == tokens.shape[1]:
        grid = tokens.transpose(1, 2).unflatten(2, (side, side))  # (B, F, side, side)
        pooled = F.adaptive_avg_pool2d(grid.float(), FEATURE_GRID)
    else:  # tokens that form no square: quarters of their sequence
        pooled = F.adaptive_avg_pool1d(tokens.transpose(1, 2).float(), FEATURE_GRID**2)
    return pooled.flatten(1), torch.ones(len(images), dtype=torch.bool, device=images.device)
