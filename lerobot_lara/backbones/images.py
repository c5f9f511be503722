"""Images on their way into an encoder."""

from torch import Tensor
from torch.nn import functional as F


def resize(images: Tensor, size: int) -> Tensor:
    """Resizes images, anti-aliased bilinear; at that size they are returned as they are.

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
