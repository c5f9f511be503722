"""Images as GR00T N1.6 sees them: shortest edge, crop, shortest edge, then whole tokens; the aspect ratio is kept.

NVIDIA's data pipeline uses OpenCV (INTER_AREA) and PIL (bicubic) on 8-bit images. Here the same is done in PyTorch, on
the device and for whole batches.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Pixels per side of an image token of the release: 2 patches of 14.
TOKEN_SIDE = 28
MIN_TOKENS = 4


def crop_size(height: int, width: int, *, shortest_edge: int, crop_fraction: float) -> tuple[int, int]:
    """Height and width of the crop, in pixels of the image whose shortest edge has been resized."""
    scaled = _scaled(height, width, shortest_edge)
    return max(1, int(scaled[0] * crop_fraction)), max(1, int(scaled[1] * crop_fraction))


def prepared_size(
    height: int, width: int, *, shortest_edge: int, crop_fraction: float, token_side: int = TOKEN_SIDE
) -> tuple[int, int]:
    """Height and width that `prepare_images` gives an image, multiples of `token_side`.

    Args:
        height: Of the camera's image, in pixels.
        width: Likewise.
        shortest_edge: See `prepare_images`.
        crop_fraction: See `prepare_images`.
        token_side: Pixels per side of an image token.
    """
    cropped = crop_size(height, width, shortest_edge=shortest_edge, crop_fraction=crop_fraction)
    scaled = _scaled(*cropped, shortest_edge)
    sides = [max(1, round(side / token_side)) for side in scaled]
    if math.prod(sides) < MIN_TOKENS:
        growth = math.sqrt(MIN_TOKENS * token_side**2 / math.prod(scaled))
        sides = [math.ceil(side * growth / token_side) for side in scaled]
    return sides[0] * token_side, sides[1] * token_side


def prepare_images(
    images: Tensor,
    *,
    shortest_edge: int,
    crop_fraction: float,
    token_side: int = TOKEN_SIDE,
    crop_position: Tensor | None = None,
) -> Tensor:
    """Resizes, crops and normalizes a camera's images.

    Args:
        images: (B, 3, H, W) in [0, 1].
        shortest_edge: Length of the shorter side before and after the crop, in pixels.
        crop_fraction: Share of both sides that the crop keeps, in (0, 1].
        token_side: Pixels per side of an image token.
        crop_position: (B, 2) in [0, 1], from top left to bottom right; None is the center.

    Returns:
        (B, 3, height, width) in [-1, 1], of `prepared_size`.
    """
    height, width = images.shape[2:]
    size = prepared_size(
        height, width, shortest_edge=shortest_edge, crop_fraction=crop_fraction, token_side=token_side
    )
    cropped = crop_size(height, width, shortest_edge=shortest_edge, crop_fraction=crop_fraction)
    images = _resize_area(images.float(), _scaled(height, width, shortest_edge))
    images = _crop(images, cropped, crop_position)
    images = _resize_area(images, _scaled(*cropped, shortest_edge))
    if images.shape[2:] != size:
        images = _as_8_bit(F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False))
    return images * 2 - 1


def _scaled(height: int, width: int, shortest_edge: int) -> tuple[int, int]:
    scale = shortest_edge / min(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _crop(images: Tensor, size: tuple[int, int], position: Tensor | None) -> Tensor:
    height, width = size
    free = images.shape[2] - height, images.shape[3] - width
    if position is None:
        top, left = free[0] // 2, free[1] // 2
        return images[:, :, top : top + height, left : left + width]
    steps = position * torch.tensor([free[0] + 1, free[1] + 1], device=position.device)
    corners = [(min(int(y), free[0]), min(int(x), free[1])) for y, x in steps.tolist()]
    crops = [
        image[:, top : top + height, left : left + width]
        for image, (top, left) in zip(images, corners, strict=True)
    ]
    return torch.stack(crops)


def _resize_area(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes as OpenCV's INTER_AREA does: a mean over the covered area, or linear where an image grows."""
    if tuple(images.shape[2:]) == size:
        return images
    rows, columns = (
        _area_weights(old, new).to(images) for old, new in zip(images.shape[2:], size, strict=True)
    )
    return _as_8_bit(rows @ images @ columns.T)


def _area_weights(old: int, new: int) -> Tensor:
    """(new, old): share of each old pixel in each new one."""
    scale = old / new
    edges = torch.arange(new + 1, dtype=torch.float64) * scale
    pixels = torch.arange(old, dtype=torch.float64)
    if scale >= 1:
        covered = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
        weights = covered.clamp(min=0)
        return weights / weights.sum(dim=1, keepdim=True)
    # A new pixel inside an old one equals it; one across a border is a mean of both by the covered shares.
    left = (edges[:-1] + 1e-9).floor().clamp(max=old - 1)
    share = ((edges[1:] - left - 1) / scale).clamp(0, 1)
    right = (left + 1).clamp(max=old - 1)
    weights = torch.zeros(new, old, dtype=torch.float64)
    weights.scatter_add_(1, left.long()[:, None], 1 - share[:, None])
    return weights.scatter_add_(1, right.long()[:, None], share[:, None])


def _as_8_bit(images: Tensor) -> Tensor:
    """Rounds to 256 levels, as images of 8 bits are between the steps of the original pipeline."""
    return (images * 255).round().clamp(0, 255) / 255
