"""What a latent action model accepts as frames, and their encoding.

Shapes: B batch, P tokens per frame, D token width.
"""

from torch import Tensor, nn

from lerobot_lara.batch.checks import check_images


def check_frames(frames: Tensor, *, values: bool = True) -> None:
    """Refuses anything but frame pairs (B, 2, 3, H, W), RGB, floating point, in [0, 1].

    Args:
        frames: To be checked.
        values: Look at the range too, for which the host waits for the device.

    Raises:
        ValueError: Says what was found.
    """
    shape = tuple(frames.shape)
    if frames.ndim != 5 or shape[1] != 2:
        raise ValueError(f"`frames` has shape {shape}; it must be pairs of frames (B, 2, 3, H, W).")
    check_images(frames, "frames", values=values)


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
