"""Stores one clip as a LeRobotDataset of one episode, whole or not at all."""

import contextlib
import errno
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np

from lerobot_lara.data.stored_frames import find_lost_frame, find_lost_rows
from lerobot_lara.data.video.dataset import ImportSettings
from lerobot_lara.data.video.decode import UnreadableClipError
from lerobot_lara.files.atomic import sync_files, sync_folder, write_json

if TYPE_CHECKING:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

CLIP_PATH = Path("meta") / "clip.json"
"""In the folder of a finished clip: its name, task and length."""
_ENDS_IMPORT = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})
"""Errors that the other clips would meet as well."""


@dataclass(frozen=True)
class StagedClip:
    """A clip that is finished, and not yet part of the dataset.

    Attributes:
        name: Name of its episode, see `Segment.name`.
        task: Instruction of the episode.
        length: Number of frames.
        folder: Its LeRobotDataset of one episode.
    """

    name: str
    task: str
    length: int
    folder: Path


def stage_clip(
    repo_id: str,
    folder: Path,
    frames: Iterable[np.ndarray],
    settings: ImportSettings,
    *,
    name: str,
    task: str,
) -> StagedClip:
    """Stores a clip as a LeRobotDataset of one episode.

    Args:
        repo_id: Name of the dataset.
        folder: Folder to write, which is there once it is complete.
        frames: Frames of the episode, each (height, width, 3) uint8 RGB.
        settings: Settings of the dataset.
        name: Name of the episode.
        task: Instruction of the episode.

    Raises:
        UnreadableClipError: `frames` raised it, there are fewer than two frames, or not all of them were stored.
        OSError: Nothing can be written, as the disk is full or read-only.
    """
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    partial = folder.with_suffix(".partial")
    features = {
        settings.camera_key: {
            "dtype": settings.storage,
            "shape": (settings.height, settings.width, 3),
            "names": ["height", "width", "channels"],
        }
    }
    dataset = LeRobotDataset.create(
        repo_id,
        fps=settings.fps,
        features=features,
        root=partial,
        robot_type=settings.robot_type,
        use_videos=settings.storage == "video",
        image_writer_threads=4,
    )
    try:
        length = _store_episode(dataset, frames, settings, task=task)
        shutil.rmtree(partial / "images", ignore_errors=True)
        write_json(partial / CLIP_PATH, {"name": name, "task": task, "length": length})
        sync_files(partial)
    except BaseException as error:
        with contextlib.suppress(Exception):
            dataset.finalize()
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError | av.FFmpegError) and error.errno not in _ENDS_IMPORT:
            raise UnreadableClipError(f"it cannot be stored: {error.strerror or error}") from error
        raise
    partial.rename(folder)
    sync_folder(folder.parent)
    return StagedClip(name, task, length, folder)


def _store_episode(
    dataset: "LeRobotDataset", frames: Iterable[np.ndarray], settings: ImportSettings, *, task: str
) -> int:
    """Writes the only episode of a dataset, and returns its length once rows and frames have been counted."""
    length = 0
    for frame in frames:
        dataset.add_frame({settings.camera_key: frame, "task": task})
        length += 1
    if length < 2:
        raise UnreadableClipError("a single frame: nothing moves" if length else "no frame in this time span")
    if lost := find_lost_frame(dataset, settings.camera_key):
        raise UnreadableClipError(lost)
    dataset.save_episode()
    dataset.finalize()
    if lost := find_lost_rows(Path(dataset.root), length):
        raise UnreadableClipError(lost)
    return length
