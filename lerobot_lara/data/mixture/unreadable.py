"""Names a frame that cannot be read: its dataset, file, episode, frame, time and camera, and what to do."""

import math
from collections.abc import Sequence
from pathlib import Path

import av
from lerobot.datasets.video_utils import FrameTimestampError

# What PIL, PyAV and torchcodec raise for files that are damaged, cut off or missing.
DECODING_ERRORS = (av.error.FFmpegError, ValueError, TypeError, IndexError, OSError, RuntimeError)


class UnreadableFrameError(ValueError):
    """A frame cannot be read.

    It can be made from a message alone, as PyTorch does to hand it on from a data-loading worker.

    Args:
        message: Names the dataset, file, episode, frame and camera.
        episode: Number of the episode in the dataset; -1 if unknown.
        file: The video, or the camera of a dataset that stores images; "" if unknown.
    """

    def __init__(self, message: str, *, episode: int = -1, file: str = "") -> None:
        super().__init__(message)
        self.episode = episode
        self.file = file


def unreadable(
    error: Exception,
    *,
    name: str,
    key: str,
    episode: int,
    frames: tuple[int, int],
    file: Path | None,
    timestamps: Sequence[float],
    root: Path,
    half_frame_s: float,
    tolerance_s: float,
) -> UnreadableFrameError:
    """Makes the error for frames that cannot be decoded.

    Args:
        error: What the decoder raised.
        name: Name of the dataset.
        key: Camera of the dataset.
        episode: Number of the episode in the dataset.
        frames: First and last of the frames, counted within the episode.
        file: The video; None for images that are stored in the table.
        timestamps: Their times in the video, in seconds.
        root: Folder of the dataset.
        half_frame_s: Half the time between two frames, in seconds.
        tolerance_s: How far a decoded frame may be from its timestamp, in seconds.
    """
    which = f"frame {frames[0]}" if frames[0] == frames[1] else f"frames {frames[0]} and {frames[1]}"
    times = " and ".join(
        f"{time:.3f}" for time in sorted({min(timestamps), max(timestamps)} if timestamps else [])
    )
    if isinstance(error, FrameTimestampError) and tolerance_s < half_frame_s:
        wide = math.ceil(half_frame_s * 1000) / 1000
        remedy = f"The video has other times than the table; --tolerance_s={wide:g} takes the nearest frame in time."
    else:
        remedy = _remedy(file)
    reason = " ".join(str(error).split())[:200]
    return UnreadableFrameError(
        f"{file or root}: {which} of episode {episode} of {name!r}{f', at {times} s' if times else ''}, camera {key}, "
        f"cannot be read ({type(error).__name__}: {reason}). {remedy}",
        episode=episode,
        file=str(file or key),
    )


def file_problem(file: Path) -> str | None:
    """Says in what way a file is no video at all, and what to do; None if it may be one.

    Args:
        file: A video of a dataset.
    """
    if not file.is_file():
        return "does not exist. Download the dataset again."
    with file.open("rb") as opened:
        start = opened.read(24)
    if not start:
        return "is empty. Download the dataset again."
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer. Run `git lfs pull` in the dataset's folder."
    return None


def _remedy(file: Path | None) -> str:
    problem = None if file is None else file_problem(file)
    if problem is not None:
        return f"The file {problem}"
    first = "Leave" if file is None else "Download the file again, or leave"
    return f"{first} the episode out with `episodes`; `on_broken_video: skip` in a mixture file draws another frame."
