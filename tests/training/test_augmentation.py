"""Random shifts: everything of a sample moves together, borders are replicated."""

import pytest
import torch

from lerobot_lara.training.augmentation import random_shift, sample_shifts


def test_given_shift_moves_down_and_right_and_replicates_the_border() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    shifted = random_shift(image, 2, shifts=torch.tensor([[1, -2]]))
    expected = torch.tensor([[2, 3, 3, 3], [2, 3, 3, 3], [6, 7, 7, 7], [10, 11, 11, 11]])
    assert torch.equal(shifted[0, 0], expected.float())


def test_images_of_a_sample_move_together_and_samples_do_not() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 1, 3, 16, 16)
    shifted = random_shift(image.expand(64, 2, 3, 16, 16), 3)
    assert shifted.shape == (64, 2, 3, 16, 16)
    assert torch.equal(shifted[:, 0], shifted[:, 1])
    assert len({tuple(sample.flatten().tolist()) for sample in shifted[:, 0]}) > 20


def test_cameras_of_different_sizes_can_share_their_shifts() -> None:
    shifts = sample_shifts(8, 2)
    small, large = torch.rand(8, 3, 8, 8), torch.zeros(8, 3, 12, 12)
    large[..., :8, :8] = small
    a = random_shift(small, 2, shifts=shifts)[..., 2:6, 2:6]
    b = random_shift(large, 2, shifts=shifts)[..., 2:6, 2:6]
    assert torch.equal(a, b)


def test_shifts_reach_both_ends_evenly() -> None:
    torch.manual_seed(0)
    shifts = sample_shifts(5000, 2)
    counts = torch.bincount((shifts + 2).flatten(), minlength=5)
    assert shifts.min() == -2 and shifts.max() == 2
    assert counts.min() > 0.9 * counts.float().mean()


def test_zero_is_off_and_negative_an_error() -> None:
    image = torch.randint(0, 255, (2, 3, 8, 8), dtype=torch.uint8)
    assert random_shift(image, 0) is image
    assert random_shift(image, 2).dtype == torch.uint8
    with pytest.raises(ValueError, match="`random_shift` is -1"):
        random_shift(image, -1)
