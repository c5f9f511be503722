"""Images as every encoder takes them: RGB, floating point, in [0, 1]."""

import torch
from torch import Tensor
from torch.nn import functional as F

TOLERANCE = 1e-3


def check_images(images: Tensor, name: str) -> None:
    """Refuses images (..., 3, H, W) that are not RGB, not floating point or not in [0, 1].

    Raises:
        ValueError: Says what was found.
    """
    if images.shape[-3] != 3:
        raise ValueError(
            f"`{name}` has shape {tuple(images.shape)} and is not RGB: the third dimension from the end must "
            "hold 3 channels."
        )
    if not images.is_floating_point():
        raise ValueError(f"`{name}` is {images.dtype}; give floats in [0, 1] (uint8 / 255).")
    low, high = torch.stack(images.aminmax()).tolist() if images.numel() else (0.0, 0.0)
    # Written so that NaN fails too.
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
        raise ValueError(
            f"`{name}` spans [{low:.3g}, {high:.3g}]; RGB in [0, 1] is needed, before any normalization."
        )


def resize(images: Tensor, size: int) -> Tensor:
    """Resize images, anti-aliased bilinear; at that size they are returned as they are.

    Args:
        images: (..., 3, H, W), floating point.
        size: Side of the result in pixels. Other aspect ratios are squashed, not cropped.

    Returns:
        (..., 3, size, size).
    """
    if images.shape[-2:] == (size, size):
        return images
    flat = images.reshape(-1, *images.shape[-3:])  # (N, 3, H, W)
    flat = F.interpolate(flat, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return flat.reshape(*images.shape[:-2], size, size)
