"""Compares an upgraded dataset with the one that it was made from, frame by frame."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets.exceptions import DatasetsError
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from tqdm import tqdm

from lerobot_lara.data.upgrade.legacy_dataset import LegacyDataset, decode_frames, decode_image

logger = logging.getLogger(__name__)

MODES = ("all", "sample", "none")
# Up to this many frames, every image is compared by default, which takes minutes and not hours.
SMALL_DATASET = 20_000
_SAMPLED_EPISODES = 200
_REPO_ID = "local/upgraded"


class UpgradeMismatchError(ValueError):
    """The upgraded dataset differs from the original."""


def resolve_mode(mode: str | None, dataset: LegacyDataset) -> str:
    """Returns `mode`, or for None the default: "all" up to `SMALL_DATASET` frames, and "sample" above."""
    if mode is not None:
        return mode
    return "all" if dataset.num_frames <= SMALL_DATASET else "sample"


def verify_upgrade(dataset: LegacyDataset, root: Path, *, mode: str) -> None:
    """Compares all lengths, numbers (bit by bit), timestamps and tasks, and camera images (pixel by pixel).

    Args:
        dataset: The original.
        root: Folder of the upgraded dataset.
        mode: "all" compares every image. "sample" compares the first, middle and last image of at most 200 episodes,
            which are spread evenly. "none" compares nothing; the dataset only has to open.

    Raises:
        UpgradeMismatchError: They differ; names the episode, the frame and the key.
    """
    meta = LeRobotDatasetMetadata(_REPO_ID, root=root)
    total = len(dataset.episodes)
    if meta.total_episodes != total or len(meta.episodes) != total:
        raise UpgradeMismatchError(
            f"{total} episodes became {len(meta.episodes)} (meta/info.json: {meta.total_episodes})"
        )
    if mode != "none":
        sampled = set(np.linspace(0, total - 1, min(total, _SAMPLED_EPISODES)).round().astype(int).tolist())
        tables = zip(range(total), _upgraded_tables(meta), strict=True)
        for episode, table in tqdm(tables, total=total, unit="episode", desc="Verifying"):
            original = dataset.read_table(episode)
            _compare_columns(dataset, meta, episode, original, table)
            if mode == "all":
                _compare_images(dataset, meta, episode, original, table, range(len(original)))
            elif episode in sampled:
                frames = sorted({0, len(original) // 2, len(original) - 1})
                _compare_images(dataset, meta, episode, original, table, frames)
    # As training would open it. Only two episodes, because `datasets` keeps a copy of what it reads in its cache.
    where = "the dataset"
    try:
        opened = LeRobotDataset(_REPO_ID, root=root, episodes=sorted({0, total - 1}))
        for episode, frame in ((0, 0), (total - 1, len(opened) - 1)):
            where = f"episode {episode}"
            opened[frame]
    except (ValueError, IndexError, KeyError, OSError, RuntimeError, DatasetsError) as error:
        raise UpgradeMismatchError(f"LeRobot cannot read {where}: {error}") from error


def _upgraded_tables(meta: LeRobotDatasetMetadata) -> Iterator[pa.Table]:
    """Yields the rows of each episode in order, reading each data file once."""
    opened, table, first = None, pa.table({}), 0
    for episode in meta.episodes:
        path = meta.root / meta.get_data_file_path(episode["episode_index"])
        if path != opened:
            opened, table, first = path, pq.read_table(path, partitioning=None), episode["dataset_from_index"]
        yield table.slice(
            episode["dataset_from_index"] - first,
            episode["dataset_to_index"] - episode["dataset_from_index"],
        )


def _compare_columns(
    dataset: LegacyDataset,
    meta: LeRobotDatasetMetadata,
    episode: int,
    original: pa.Table,
    upgraded: pa.Table,
) -> None:
    """Compares an episode's lengths, columns, indices and tasks."""
    lengths = {
        "meta/episodes.jsonl": dataset.episodes[episode]["length"],
        "the original data file": len(original),
        "the upgraded data file": len(upgraded),
        "the upgraded metadata": meta.episodes[episode]["length"],
    }
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{length} frames in {where}" for where, length in lengths.items())
        raise UpgradeMismatchError(f"episode {episode}: {listed}")
    if set(original.column_names) != set(upgraded.column_names):
        raise UpgradeMismatchError(
            f"episode {episode}: the columns {sorted(original.column_names)} became {sorted(upgraded.column_names)}"
        )
    for key in original.column_names:
        if key not in dataset.image_keys:
            _compare_column(episode, key, original[key].combine_chunks(), upgraded[key].combine_chunks())
    numbers = {
        "episode_index": [episode] * len(original),
        "frame_index": list(range(len(original))),
        "index": list(
            range(meta.episodes[episode]["dataset_from_index"], meta.episodes[episode]["dataset_to_index"])
        ),
    }
    for key, expected in numbers.items():
        for frame, (number, found) in enumerate(zip(expected, upgraded[key].to_pylist(), strict=True)):
            if found != number:
                raise UpgradeMismatchError(
                    f"episode {episode}, frame {frame}, {key}: {found} instead of {number}"
                )
    indices = zip(original["task_index"].to_pylist(), upgraded["task_index"].to_pylist(), strict=True)
    for frame, (before, after) in enumerate(indices):
        task, found = dataset.tasks[before], meta.tasks.iloc[after].name  # as LeRobot looks it up
        if task != found:
            raise UpgradeMismatchError(f"episode {episode}, frame {frame}, task: {task!r} became {found!r}")


def _compare_column(episode: int, key: str, original: pa.Array, upgraded: pa.Array) -> None:
    """Compares a column of an episode."""
    if _content(original) == _content(upgraded):
        return
    for frame in range(len(original)):
        before, after = original.slice(frame, 1), upgraded.slice(frame, 1)
        if _content(before) != _content(after):
            raise UpgradeMismatchError(
                f"episode {episode}, frame {frame}, {key}: {before[0].as_py()!r} ({before.type}) became "
                f"{after[0].as_py()!r} ({after.type})"
            )


def _content(array: pa.Array) -> tuple:
    """Content to compare: numbers as bytes, so that NaN equals itself and -0.0 differs from 0.0."""
    sizes = []
    while pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type):
        sizes.append(pc.list_value_length(array).to_pylist())
        array = array.flatten()
    if pa.types.is_floating(array.type) or pa.types.is_integer(array.type):
        values = array.to_numpy(zero_copy_only=False)
        return (
            sizes,
            values.dtype,
            values.tobytes(),
            array.is_null().to_pylist() if array.null_count else None,
        )
    return sizes, array.type, array.to_pylist()


def _compare_images(
    dataset: LegacyDataset,
    meta: LeRobotDatasetMetadata,
    episode: int,
    original: pa.Table,
    upgraded: pa.Table,
    frames: range | list[int],
) -> None:
    """Compares images of all cameras at some frames of an episode."""
    for key in [*dataset.image_keys, *dataset.video_keys]:
        try:
            if key in dataset.image_keys:
                pairs = zip(
                    map(decode_image, original[key].take(list(frames)).to_pylist()),
                    map(decode_image, upgraded[key].take(list(frames)).to_pylist()),
                    strict=True,
                )
            else:
                timestamps = original["timestamp"].take(list(frames)).to_pylist()
                start = meta.episodes[episode][f"videos/{key}/from_timestamp"]
                pairs = zip(
                    decode_frames(dataset.video_path(episode, key), timestamps, dataset.info["fps"]),
                    decode_frames(
                        meta.root / meta.get_video_file_path(episode, key),
                        [start + time for time in timestamps],
                        dataset.info["fps"],
                    ),
                    strict=True,
                )
            for frame, (before, after) in zip(frames, pairs, strict=True):
                if not np.array_equal(before, after):
                    raise UpgradeMismatchError(f"episode {episode}, frame {frame}, {key}: the images differ")
        except UpgradeMismatchError:
            raise
        except (ValueError, IndexError, OSError, RuntimeError) as error:  # what the decoders raise
            raise UpgradeMismatchError(f"episode {episode}, {key}: cannot be decoded: {error}") from error
