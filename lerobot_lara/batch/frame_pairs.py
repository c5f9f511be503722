"""The frame pair (o_t, o_{t+K}) of a training batch."""

from torch import Tensor


def frame_pairs(batch: dict[str, Tensor], camera: str) -> tuple[Tensor, Tensor | None]:
    """Picks the latent action model's view out of a batch.

    Args:
        batch: A batch of LeRobot's dataset for a policy whose `observation_delta_indices` are [0, K].
        camera: Key of the images.

    Returns:
        Frames (B, 2, 3, H, W), and (B,) bool, False where the pair crosses its episode's end; None without any
        `observation.*_is_pad`, which means all True.

    Raises:
        ValueError: The camera is missing, or its images have no time axis of two frames.
    """
    if camera not in batch:
        cameras = sorted(key for key in batch if key.startswith("observation.image") and "is_pad" not in key)
        raise ValueError(f"Camera {camera!r} is not in the batch; it has {cameras}.")
    frames = batch[camera]
    if frames.ndim != 5 or frames.shape[1] != 2:
        raise ValueError(
            f"`{camera}` has shape {tuple(frames.shape)}, not that of pairs of frames (B, 2, 3, H, W), which "
            "LeRobot's dataset yields for this policy type."
        )
    # LeRobot's --rename_map renames the images but not their flags; those of all observations are alike.
    flags = [
        f"{camera}_is_pad",
        *(key for key in batch if key.startswith("observation.") and "_is_pad" in key),
    ]
    is_pad = next(
        (batch[key] for key in flags if key in batch and batch[key].shape == frames.shape[:2]), None
    )
    return frames, None if is_pad is None else ~is_pad.bool().any(dim=1)
