"""Images of GR00T N1.6 equal what OpenCV and PIL make of them, within two levels of 256."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from lerobot_lara.groot_n16.images import crop_size, prepare_images, prepared_size

RELEASE = {"shortest_edge": 256, "crop_fraction": 0.95}
SIZES = [(480, 640), (256, 256), (128, 96), (720, 405)]


def picture(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (9, 9), 3)


def shortest_edge(image: np.ndarray, edge: int) -> np.ndarray:
    scale = edge / min(image.shape[:2])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return image if size == image.shape[1::-1] else cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def original(image: np.ndarray) -> np.ndarray:
    image = shortest_edge(image, 256)
    height, width = int(image.shape[0] * 0.95), int(image.shape[1] * 0.95)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    image = shortest_edge(image[top : top + height, left : left + width], 256)
    size = tuple(28 * round(side / 28) for side in image.shape[1::-1])
    return np.asarray(Image.fromarray(image).resize(size))


def as_batch(*images: np.ndarray) -> torch.Tensor:
    return torch.stack([torch.tensor(image).permute(2, 0, 1) for image in images]).float() / 255


@pytest.mark.parametrize("size", SIZES)
def test_images_are_prepared_as_by_the_original(size: tuple[int, int]) -> None:
    image = picture(*size)
    expected = original(image)
    actual = prepare_images(as_batch(image), **RELEASE)
    assert actual.shape[2:] == expected.shape[:2] == prepared_size(*size, **RELEASE)
    levels = (actual[0].permute(1, 2, 0) + 1) / 2 * 255
    # The steps round one after the other; each may differ by one level.
    assert np.abs(levels.numpy() - expected).max() <= 2.01
    assert np.abs(levels.numpy() - expected).mean() < 0.3


def test_sizes_are_whole_tokens_and_never_too_few() -> None:
    assert prepared_size(480, 640, **RELEASE) == (252, 336)
    assert prepared_size(10, 10, shortest_edge=16, crop_fraction=1.0) == (56, 56)


def test_crops_go_where_they_are_asked_to() -> None:
    image = torch.arange(40 * 40).reshape(1, 1, 40, 40).expand(3, 3, 40, 40) / 1600
    position = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5]])
    settings = {"shortest_edge": 40, "crop_fraction": 0.7, "token_side": 4}
    assert crop_size(40, 40, shortest_edge=40, crop_fraction=0.7) == (28, 28)
    first, last, middle = prepare_images(image, **settings, crop_position=position)
    assert first.mean() < middle.mean() < last.mean()
    centered = prepare_images(image, **settings)
    torch.testing.assert_close(middle, centered[0], atol=0.05, rtol=0)
