"""Whether a dataset still is the one that was labeled: by the lengths of its episodes, and by its files of frames.

Videos are known by their sizes. Images lie in tables, which may change without them as columns are added; there, the
first image of each table is looked at.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata


def episode_lengths(meta: LeRobotDatasetMetadata) -> list[int]:
    """Frames of every episode of a dataset, in order."""
    return [int(length) for length in meta.episodes["length"]]


def frame_files(meta: LeRobotDatasetMetadata, camera: str, episodes: Iterable[int]) -> dict[str, int | str]:
    """What tells the files that hold the frames of a camera from others.

    Args:
        meta: Metadata of the dataset.
        camera: Camera of the dataset.
        episodes: Numbers of the episodes that count.

    Returns:
        File, relative to the dataset -> size of a video in bytes, or fingerprint of a table's first image; files that
        are not on this machine are left out.
    """
    is_video = camera in meta.video_keys
    files = {
        meta.get_video_file_path(episode, camera) if is_video else meta.get_data_file_path(episode)
        for episode in episodes
    }
    present = sorted(file for file in files if (Path(meta.root) / file).is_file())
    root = Path(meta.root)
    return {
        str(file): (root / file).stat().st_size if is_video else _first_image(root / file, camera)
        for file in present
    }


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
    for file, found in frame_files(meta, camera, episodes).items():
        was = labeled["files"].get(file)
        if was is None:
            return f"{file} was not there when it was labeled"
        if was != found:
            return f"{file} holds other frames than when it was labeled"
    return None


def _first_image(file: Path, camera: str) -> str:
    """Fingerprint of the first image in a table."""
    with pq.ParquetFile(file, pre_buffer=False) as opened:
        batch = next(opened.iter_batches(batch_size=1, columns=[camera]))
    image = batch.column(0)[0].as_py()
    return hashlib.sha256(image["bytes"] or b"").hexdigest()[:16]
