"""Whether a dataset still is the one that was labeled: lengths of its episodes, and sizes of the files of its frames.

Frames in videos are known by the sizes of the videos. Images lie in the tables beside the other columns, which may
change without them; there, the size of the images' own column is taken.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata


def episode_lengths(meta: LeRobotDatasetMetadata) -> list[int]:
    """Frames of every episode of a dataset, in order."""
    return [int(length) for length in meta.episodes["length"]]


def frame_files(meta: LeRobotDatasetMetadata, camera: str, episodes: Iterable[int]) -> dict[str, int]:
    """Sizes of the files that hold the frames of a camera.

    Args:
        meta: Metadata of the dataset.
        camera: Camera of the dataset.
        episodes: Numbers of the episodes that count.

    Returns:
        File, relative to the dataset -> bytes of its frames; files that are not on this machine are left out.
    """
    is_video = camera in meta.video_keys
    files = {
        meta.get_video_file_path(episode, camera) if is_video else meta.get_data_file_path(episode)
        for episode in episodes
    }
    present = sorted(file for file in files if (Path(meta.root) / file).is_file())
    size = _file_size if is_video else _column_size
    return {str(file): size(Path(meta.root) / file, camera) for file in present}


def find_difference(
    meta: LeRobotDatasetMetadata, labeled: dict[str, Any], camera: str, episodes: Iterable[int]
) -> str | None:
    """Compares a dataset with the one that was labeled.

    Args:
        meta: Metadata of the dataset.
        labeled: `dataset` of the labels' manifest.
        camera: Camera of the dataset.
        episodes: Numbers of the episodes in use.

    Returns:
        What is different, or None.
    """
    lengths, known = episode_lengths(meta), [int(length) for length in labeled["episode_lengths"]]
    if len(lengths) != len(known):
        return f"it has {len(lengths)} episodes, and {len(known)} were labeled"
    for number, (length, was) in enumerate(zip(lengths, known, strict=True)):
        if length != was:
            return f"its episode {number} has {length} frames, and had {was} when it was labeled"
    if float(meta.fps) != float(labeled["fps"]):
        return f"it has {meta.fps:g} frames per second, and had {labeled['fps']:g} when it was labeled"
    for file, size in frame_files(meta, camera, episodes).items():
        was = labeled["files"].get(file)
        if was is None:
            return f"its frames in {file} were not there when it was labeled"
        if was != size:
            return f"the frames in {file} take {size} bytes, and took {was} when it was labeled"
    return None


def _file_size(file: Path, camera: str) -> int:
    return file.stat().st_size


def _column_size(file: Path, camera: str) -> int:
    metadata = pq.read_metadata(file)
    columns = (
        metadata.row_group(group).column(column)
        for group in range(metadata.num_row_groups)
        for column in range(metadata.num_columns)
    )
    return sum(
        column.total_uncompressed_size
        for column in columns
        if column.path_in_schema == camera or column.path_in_schema.startswith(f"{camera}.")
    )
