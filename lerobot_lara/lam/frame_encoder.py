"""What a latent action model accepts as frames, and their encoding.

Shapes: B batch, P tokens per frame, D token width.
"""

import torch
from torch import Tensor, nn

TOLERANCE = 1e-3


def check_frames(frames: Tensor) -> None:
    """Refuses anything but frame pairs (B, 2, 3, H, W), RGB, floating point, in [0, 1].

    Raises:
        ValueError: Says what was found.
    """
    shape = tuple(frames.shape)
    if frames.ndim != 5 or shape[1] != 2:
        raise ValueError(f"`frames` has shape {shape}; pairs of frames (B, 2, 3, H, W) are needed.")
    check_images(frames, "frames")


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
            f"`{name}` spans [{low:.3g}, {high:.3g}]; RGB in [0, 1] is needed, before any normalisation."
        )


def encode_frames(encoder: nn.Module, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Encodes both frames of each pair in one call.

    Args:
        encoder: Maps (N, 3, H, W) in [0, 1] to tokens (N, P, D).
        frames: (B, 2, 3, H, W) in [0, 1].

    Returns:
        Tokens of the current and of the future frames, (B, P, D) each.
    """
    tokens = encoder(frames.flatten(0, 1))  # (B*2, P, D)
    current, future = tokens.unflatten(0, (-1, 2)).unbind(1)
    return current, future
