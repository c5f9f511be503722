"""Counts what LeRobot has stored: it logs an image that it cannot write, and goes on without it."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from lerobot_lara.data.video.decode import count_packets

if TYPE_CHECKING:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

_PNG_END = b"IEND\xaeB`\x82"


def find_lost_frame(dataset: "LeRobotDataset", camera_key: str) -> str | None:
    """Looks for a frame of the episode that is being recorded, before it is saved, that is not a PNG file with an end.

    Returns:
        What is wrong, or None.
    """
    writer = dataset.writer
    if writer.image_writer is not None:
        writer.image_writer.wait_until_done()
    for number, name in enumerate(writer.episode_buffer[camera_key]):
        try:
            with open(name, "rb") as file:
                file.seek(-len(_PNG_END), os.SEEK_END)
                whole = file.read() == _PNG_END
        except OSError:
            whole = False
        if not whole:
            return f"frame {number} could not be written"
    return None


def find_lost_rows(root: Path, length: int) -> str | None:
    """Looks for rows, or frames of videos, that are missing in a dataset.

    Args:
        root: Folder of the dataset.
        length: Number of frames that were added to it.

    Returns:
        What is wrong, or None.
    """
    counts = {"rows": sum(pq.read_metadata(table).num_rows for table in (root / "data").rglob("*.parquet"))}
    for camera in (root / "videos").glob("*"):
        counts["frames in its video"] = sum(count_packets(video) for video in camera.rglob("*.mp4"))
    for what, count in counts.items():
        if count != length:
            return f"only {count} {what} of {length} were stored"
    return None
