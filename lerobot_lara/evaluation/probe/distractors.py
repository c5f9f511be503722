"""Changes between the frames that no action caused, which a good latent action ignores.

Shapes: n pairs of a batch, N pairs, S side of the frames.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

PATCH, BRIGHTNESS = "moving patch", "brightness drift"
# Side of the patch as a share of the frame's.
PATCH_SIDE = 0.25
# Number of places that are tried for the patch; the one where the frames change least is taken to be background.
NUM_PLACES = 12
# Largest relative change of the brightness of o_{t+K}; the smallest is half of it.
DRIFT = 0.25


def distractors(seed: int, num_pairs: int) -> dict[str, Callable[[Tensor, slice], Tensor]]:
    """Functions that add a distractor to a batch of frames.

    Args:
        seed: Seed for all random choices, which do not depend on how pairs are batched.
        num_pairs: N.

    Returns:
        By name, functions of frames (n, 2, 3, S, S) in [0, 1] and of the slice of the N pairs that these frames are.
    """
    generator = torch.Generator().manual_seed(seed)
    texture = torch.rand(num_pairs, 1, 4, 4, generator=generator)
    places = torch.rand(num_pairs, NUM_PLACES, 2, 2, generator=generator)
    drift = DRIFT * (0.5 + 0.5 * torch.rand(num_pairs, generator=generator))
    drift *= torch.randint(0, 2, (num_pairs,), generator=generator) * 2 - 1
    return {
        PATCH: lambda frames, rows: add_moving_patch(frames, texture[rows], places[rows]),
        BRIGHTNESS: lambda frames, rows: add_brightness_drift(frames, drift[rows]),
    }


def add_moving_patch(frames: Tensor, texture: Tensor, places: Tensor) -> Tensor:
    """Adds a gray textured patch to the background of both frames, in different places.

    Args:
        frames: (n, 2, 3, S, S) in [0, 1].
        texture: (n, 1, 4, 4) in [0, 1], enlarged to the size of the patch.
        places: (n, P, 2, 2) in [0, 1]: P candidates for its relative (row, column) in the two frames.

    Returns:
        The changed frames, same shape.
    """
    size = frames.shape[-1]
    side = max(2, round(PATCH_SIDE * size))
    corners = (places * (size - side + 1)).long().clamp(max=size - side)
    patch = F.interpolate(texture, size=(side, side), mode="nearest")
    change = (frames[:, 1] - frames[:, 0]).abs().mean(1)  # (n, S, S)
    result = frames.clone()
    for number in range(len(frames)):
        covered = [
            sum(
                change[number, row : row + side, column : column + side].sum().item()
                for row, column in candidate
            )
            for candidate in corners[number].tolist()
        ]
        best = corners[number, int(np.argmin(covered))].tolist()
        for time, (row, column) in enumerate(best):
            result[number, time, :, row : row + side, column : column + side] = patch[number]
    return result


def add_brightness_drift(frames: Tensor, drift: Tensor) -> Tensor:
    """Makes the second frame brighter or darker.

    Args:
        frames: (n, 2, 3, S, S) in [0, 1].
        drift: (n,) relative change of brightness.

    Returns:
        The changed frames, same shape, in [0, 1].
    """
    future = (frames[:, 1] * (1 + drift.view(-1, 1, 1, 1))).clamp(0, 1)
    return torch.stack([frames[:, 0], future], dim=1)
