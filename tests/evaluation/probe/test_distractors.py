import torch
from torch import Tensor

from lerobot_lara.evaluation.probe.distractors import BRIGHTNESS, PATCH, distractors


def moving_square() -> Tensor:
    """Ten pairs in which something moves in the upper left corner only."""
    frames = torch.full((10, 2, 3, 32, 32), 0.4)
    frames[:, 0, 0, 2:8, 2:8] = 0.9
    frames[:, 1, 0, 4:10, 6:12] = 0.9
    return frames


def test_patch_moves_over_the_background() -> None:
    frames = moving_square()
    changed = distractors(0, 10)[PATCH](frames, slice(0, 10))
    touched = (changed != frames).any(2)  # (10, 2, 32, 32)
    assert not torch.equal(touched[:, 0], touched[:, 1])
    assert touched.flatten(2).any(2).all()
    # At most the 8 by 8 pixels of the patch, hardly ever on what moves.
    assert touched.sum((2, 3)).max() <= 64
    assert touched[:, :, :12, :12].float().mean() < 0.02


def test_light_drifts_in_the_second_frame_only() -> None:
    frames = moving_square()
    changed = distractors(0, 10)[BRIGHTNESS](frames, slice(0, 10))
    assert torch.equal(changed[:, 0], frames[:, 0])
    ratio = changed[:, 1, 2, 20, 20] / 0.4
    assert ((ratio - 1).abs() > 0.12).all() and ((ratio - 1).abs() < 0.26).all()
    assert (ratio > 1).any() and (ratio < 1).any()
    assert changed.max() <= 1


def test_batches_do_not_matter() -> None:
    frames = moving_square()
    for change in distractors(0, 10).values():
        parts = torch.cat([change(frames[:3], slice(0, 3)), change(frames[3:], slice(3, 10))])
        assert torch.equal(parts, change(frames, slice(0, 10)))
