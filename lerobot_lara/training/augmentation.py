"""Random image shifts that keep everything within one sample aligned."""

from collections.abc import Iterable

import torch
from torch import Tensor


def sample_shifts(batch_size: int, max_pixels: int, *, device: torch.device | None = None) -> Tensor:
    """Draws one integer (down, right) shift per sample, uniform in [-max_pixels, max_pixels]: (B, 2)."""
    return torch.randint(-max_pixels, max_pixels + 1, (batch_size, 2), device=device)


def shift_cameras(
    batch: dict[str, Tensor], cameras: Iterable[str], max_pixels: int, *, shifts: Tensor | None = None
) -> dict[str, Tensor]:
    """Shifts the images of a batch at random, all frames and cameras of a sample alike.

    Args:
        batch: Images (B, ..., 3, H, W) under the keys of the cameras; those that it lacks are left out.
        cameras: Keys of the cameras.
        max_pixels: Largest shift in each direction; 0 returns the batch itself.
        shifts: (B, 2) integer shifts to apply instead of new ones.

    Returns:
        A new dict.
    """
    present = [key for key in cameras if key in batch]
    if max_pixels == 0 or not present:
        return batch
    if shifts is None:
        images = batch[present[0]]
        shifts = sample_shifts(len(images), max_pixels, device=images.device)
    return {**batch, **{key: random_shift(batch[key], max_pixels, shifts=shifts) for key in present}}


def random_shift(images: Tensor, max_pixels: int, *, shifts: Tensor | None = None) -> Tensor:
    """Shifts each sample's images by the same random number of pixels and replicates the border.

    All images of a sample (both frames, every camera) move together, so that their relation is unchanged
    (DrQ, https://arxiv.org/abs/2004.13649, per sample instead of per image).

    Args:
        images: (B, ..., 3, H, W), any dtype and range.
        max_pixels: Largest shift in each direction; 0 returns the images unchanged.
        shifts: (B, 2) integer shifts to apply instead of new ones, for images of a sample that come in
            several tensors.

    Returns:
        Shifted images with the shape of `images`.

    Raises:
        ValueError: If `max_pixels` is negative.
    """
    if max_pixels < 0:
        raise ValueError(f"`random_shift` is {max_pixels}, but a number of pixels must be 0 or more.")
    if max_pixels == 0:
        return images
    batch_size, (height, width) = images.shape[0], images.shape[-2:]
    if shifts is None:
        shifts = sample_shifts(batch_size, max_pixels, device=images.device)
    flat = images.reshape(batch_size, -1, height, width)  # (B, N*3, H, W)
    # Clamping the source index replicates the border.
    rows = torch.arange(height, device=images.device) - shifts[:, :1]
    columns = torch.arange(width, device=images.device) - shifts[:, 1:]
    rows = rows.clamp(0, height - 1)[:, None, :, None].expand_as(flat)  # (B, N*3, H, W)
    columns = columns.clamp(0, width - 1)[:, None, None, :].expand_as(flat)
    return flat.gather(-2, rows).gather(-1, columns).reshape(images.shape)
