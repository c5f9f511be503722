"""Checks before training that the videos of a dataset exist, can be decoded, and have the times that its table says."""

from collections.abc import Iterable

import numpy as np

from lerobot_lara.data.mixture.reader import ColumnReader
from lerobot_lara.data.mixture.unreadable import UnreadableFrameError

# Videos of each camera that are tried, spread over the dataset; LeRobot puts many episodes into one.
MAX_FILES = 32


def video_problems(reader: ColumnReader, cameras: Iterable[str]) -> list[str]:
    """Finds videos that training would stop at: tries the last frame of the last episode in each file.

    There, times that differ from the table's are furthest apart, and a video that is cut off ends too early.

    Args:
        reader: The episodes in use.
        cameras: Cameras of the dataset.

    Returns:
        A sentence for each camera with such a video, about the first of them, and what to do.
    """
    found = (_first_bad_video(reader, key) for key in cameras if reader.is_video(key))
    return [sentence for sentence in found if sentence is not None]


def _first_bad_video(reader: ColumnReader, key: str) -> str | None:
    last = {reader.video(key, episode).file: at for at, episode in enumerate(reader.episodes)}
    positions = list(last.values())
    tried = np.linspace(0, len(positions) - 1, min(MAX_FILES, len(positions))).round().astype(int)
    for position in (positions[index] for index in tried):
        row = int(reader.starts[position] + reader.lengths[position]) - 1
        try:
            reader.try_frame(key, row)
        except UnreadableFrameError as error:
            return str(error)
    return None
