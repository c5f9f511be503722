"""What images have to be, and how often their values are looked at."""

import torch
from torch import Tensor

TOLERANCE = 1e-3


class Periodic:
    """Tells when a check is due that would make the host wait for the device: at first, then every n-th time.

    Args:
        every: n, at least 1.
    """

    def __init__(self, every: int = 100) -> None:
        self.every = every
        self._calls = 0

    def due(self) -> bool:
        """Counts one call, and returns whether the check is due at it."""
        self._calls += 1
        return (self._calls - 1) % self.every == 0


def check_images(images: Tensor, name: str, *, values: bool = True) -> None:
    """Refuses images (..., 3, H, W) that are not RGB, not floating point or not in [0, 1].

    Args:
        images: To be checked.
        name: For the error.
        values: Look at the range too, for which the host waits for the device.

    Raises:
        ValueError: Says what was found.
    """
    if images.ndim < 3 or images.shape[-3] != 3:
        raise ValueError(
            f"`{name}` has shape {tuple(images.shape)} and is not RGB: the third dimension from the end must "
            "hold 3 channels. Convert the images first."
        )
    if not images.is_floating_point():
        raise ValueError(
            f"`{name}` is {images.dtype}; it must be floating point in [0, 1]. Divide uint8 by 255."
        )
    if not values:
        return
    low, high = torch.stack(images.aminmax()).tolist() if images.numel() else (0.0, 0.0)
    # Written so that NaN fails too.
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
        raise ValueError(
            f"`{name}` spans [{low:.3g}, {high:.3g}]; it must be RGB in [0, 1], before any normalization."
        )
