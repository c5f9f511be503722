"""The frame pair (o_t, o_{t+K}) of a training batch, and the batch without the second frame.

Legend: B batch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lerobot_lara.batch.keys import (
    FRAME_PAIR,
    FRAME_PAIR_IS_PAD,
    LATENT_ACTION,
    LATENT_ACTION_IS_PAD,
    LATENT_SHIFT,
)
from lerobot_lara.batch.observation import dataset_index, require_cameras


@dataclass(frozen=True)
class FramePairs:
    """What a latent action model sees of a batch.

    Attributes:
        frames: (B, 2, 3, H, W).
        valid: (B,) bool, False where the pair crosses its episode's end; None is all True.
        dataset_index: (B,) int64, entry of the mixture; None without one.
    """

    frames: Tensor
    valid: Tensor | None
    dataset_index: Tensor | None

    @classmethod
    def from_batch(cls, batch: Mapping[str, Any], camera: str) -> "FramePairs":
        """Picks one camera's pairs out of a batch.

        Args:
            batch: A batch with `FRAME_PAIR`, whose frames may be uint8; or one of LeRobot's dataset for a policy whose
                `observation_delta_indices` are [0, K].
            camera: Key of the images in a batch without `FRAME_PAIR`.

        Raises:
            ValueError: There are no pairs of frames.
        """
        if FRAME_PAIR in batch:
            frames, is_pad = batch[FRAME_PAIR], batch.get(FRAME_PAIR_IS_PAD)
            if frames.ndim != 5 or frames.shape[1] != 2:
                raise ValueError(
                    f"`{FRAME_PAIR}` has shape {tuple(frames.shape)}; it must be (B, 2, 3, H, W), two frames of each "
                    "sample."
                )
            frames = frames.float() / 255 if frames.dtype == torch.uint8 else frames
            return cls(frames, None if is_pad is None else ~is_pad.bool().any(dim=1), dataset_index(batch))
        require_cameras(batch, [camera])
        frames = batch[camera]
        if frames.ndim != 5 or frames.shape[1] != 2:
            raise ValueError(
                f"`{camera}` has shape {tuple(frames.shape)}; it must be that of pairs of frames (B, 2, 3, H, W), "
                f"as in the batches of `lerobot-train` for this policy type, or `{FRAME_PAIR}` must be there beside it."
            )
        # LeRobot's --rename_map renames the images but not their flags; those of all observations are alike.
        flags = [
            f"{camera}_is_pad",
            *(key for key in batch if key.startswith("observation.") and "_is_pad" in key),
        ]
        is_pad = next(
            (batch[key] for key in flags if key in batch and batch[key].shape == frames.shape[:2]), None
        )
        valid = None if is_pad is None else ~is_pad.bool().any(dim=1)
        return cls(frames, valid, dataset_index(batch))


def plain_batch(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch without what is there for the alignment alone: a new dict."""
    added = (FRAME_PAIR, FRAME_PAIR_IS_PAD, LATENT_ACTION, LATENT_ACTION_IS_PAD, LATENT_SHIFT)
    return {key: value for key, value in batch.items() if key not in added}


def present_batch(batch: Mapping[str, Any], observed: Iterable[str]) -> dict[str, Any]:
    """The batch as it is at o_t: no policy may see the second frame.

    Args:
        batch: Observations with a time axis of two frames after the batch axis; or as the policy itself takes them,
            with the pair apart as `FRAME_PAIR`.
        observed: Keys of the policy's observations.

    Returns:
        A new dict, with the first frame of each observation and of its `<key>_is_pad`; or without the pair.
    """
    present = plain_batch(batch)
    if FRAME_PAIR in batch:
        return present
    for key in observed:
        for name in (key, f"{key}_is_pad"):
            if name in batch:
                present[name] = batch[name][:, 0]
    return present
