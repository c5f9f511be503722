"""The stages that turn a dataset in format v2.0 or v2.1 into one in v3.0, each of which can be repeated.

The functions of LeRobot's own v2.1 -> v3.0 converter do most of the work. They expect a v2.1 dataset, and get a folder
with symbolic links to the original's videos and with metadata that includes what v2.0 lacks.
"""

import itertools
import json
import logging
import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from lerobot.datasets.compute_stats import aggregate_stats
from lerobot.datasets.io_utils import (
    cast_stats_to_numpy,
    get_parquet_file_size_in_mb,
    load_info,
    write_info,
    write_stats,
)
from lerobot.datasets.utils import (
    DEFAULT_CHUNK_SIZE,
    DEFAULT_DATA_FILE_SIZE_IN_MB,
    DEFAULT_DATA_PATH,
    DEFAULT_EPISODES_PATH,
    INFO_PATH,
    LEGACY_EPISODES_PATH,
    LEGACY_EPISODES_STATS_PATH,
    LEGACY_TASKS_PATH,
    serialize_dict,
    update_chunk_file_indices,
)
from lerobot.scripts.convert_dataset_v21_to_v30 import (
    convert_info,
    convert_tasks,
    convert_videos_of_camera,
    generate_episode_metadata_dict,
)
from tqdm import tqdm

from lerobot_lara.data.upgrade.legacy_dataset import LegacyDataset, clip_length
from lerobot_lara.data.upgrade.legacy_statistics import described_keys, episode_statistics, usable_statistics
from lerobot_lara.files.atomic import write_json, write_text
from lerobot_lara.files.links import inside
from lerobot_lara.files.reading import read_json

logger = logging.getLogger(__name__)

# Episodes whose metadata goes into one file, so that files and the memory for them stay below 100 MB.
_EPISODES_PER_FILE = 10_000


def convert_legacy_dataset(dataset: LegacyDataset, staging: Path, video_file_size_in_mb: int) -> None:
    """Writes the upgraded dataset; stages that an earlier, interrupted call has finished are not repeated.

    Args:
        dataset: The original.
        staging: Folder of the unfinished upgrade; the dataset is written to `staging / "dataset"`.
        video_file_size_in_mb: Approximate size of the video files into which episodes are joined.

    Raises:
        ValueError: The episodes contradict each other or the metadata.
    """
    links, root = inside(staging / "links", staging), inside(staging / "dataset", staging)

    def run_stage(name: str, function: Callable[[], Any]) -> Any:
        result = inside(staging / f"{name}.done.json", staging)
        if not result.exists():
            write_json(result, function())
        return read_json(result, remedy=f"Delete {staging} and start again.")

    run_stage("links", lambda: _link(dataset, links))
    run_stage("clips", lambda: _check_clips(dataset))
    run_stage("statistics", lambda: _write_statistics(dataset, links))
    data = run_stage("data", lambda: _join_data(dataset, root))
    videos: list[dict[str, Any]] = [{"episode_index": entry["episode_index"]} for entry in data]
    for key in dataset.video_keys:
        inside(root / "videos" / key, root)
        camera = run_stage(
            f"videos_{key}",
            partial(convert_videos_of_camera, links, root, key, video_file_size_in_mb),
        )
        videos = [{**others, **entry} for others, entry in zip(videos, camera, strict=True)]
    run_stage("metadata", lambda: _write_metadata(dataset, links, root, data, videos, video_file_size_in_mb))


def _link(dataset: LegacyDataset, links: Path) -> None:
    """Lays out what the converter reads: complete metadata, and videos whose names sort in episode order."""
    shutil.rmtree(links, ignore_errors=True)
    (links / "meta").mkdir(parents=True)
    info = {"total_chunks": 0, "total_videos": 0, "video_path": None, **dataset.info}
    # Readers of v3.0 go by these numbers, which are not always right.
    info["total_episodes"], info["total_frames"] = len(dataset.episodes), dataset.num_frames
    info["total_tasks"] = len(dataset.tasks)
    info["features"] = {key: _with_channel_names(key, feature) for key, feature in dataset.features.items()}
    write_json(links / INFO_PATH, info)
    tasks = ({"task_index": index, "task": task} for index, task in enumerate(dataset.tasks))
    _write_lines(links / LEGACY_TASKS_PATH, tasks)
    _write_lines(links / LEGACY_EPISODES_PATH, dataset.episodes)
    for episode in range(len(dataset.episodes)):
        # Numbers with leading zeros, because the converter sorts by name.
        chunk, name = f"chunk-{episode // DEFAULT_CHUNK_SIZE:06d}", f"episode_{episode:09d}"
        for key in dataset.video_keys:
            link = links / "videos" / chunk / key / f"{name}.mp4"
            inside(link, links).parent.mkdir(parents=True, exist_ok=True)
            target = dataset.video_path(episode, key).resolve()
            if "'" in str(target) or "\n" in str(
                target
            ):  # ends a path in the list that LeRobot gives to ffmpeg
                raise ValueError(
                    f"{target} has an apostrophe or a line break in its path; videos cannot be joined from there. "
                    "Move the dataset to another folder."
                )
            link.symlink_to(target)


def _with_channel_names(key: str, feature: dict[str, Any]) -> dict[str, Any]:
    """The feature with names that say where a camera's channels are."""
    if feature["dtype"] not in ("image", "video") or len(feature["shape"]) != 3:
        return feature
    names, channels_last = feature.get("names"), feature["shape"][2] in (1, 3)
    if not isinstance(names, list) or len(names) != 3:
        names = None
    if channels_last and (not names or names[2] not in ("channel", "channels")):
        names = ["height", "width", "channels"]
    elif not names:
        names = ["channels", "height", "width"]
    if names != feature.get("names"):
        logger.info("%s: the dimensions %s are now named %s.", key, feature.get("names"), names)
    return {**feature, "names": names}


def _check_clips(dataset: LegacyDataset) -> None:
    """Refuses videos with fewer frames than the data file of their episode has rows."""
    episodes = dataset.episodes if dataset.video_keys else []
    for episode in tqdm(episodes, unit="episode", desc="Checking videos", disable=not episodes):
        for key in dataset.video_keys:
            index = episode["episode_index"]
            path = dataset.video_path(index, key)
            length = clip_length(path, dataset.info["fps"])
            if length is not None and length < episode["length"]:
                raise ValueError(
                    f"{dataset.root}: episode {index}, {key}: its video {path} has {length} frames, but its data file "
                    f"has {episode['length']}. Download the video again, or remove the episode from a copy of the "
                    "dataset."
                )


def _write_statistics(dataset: LegacyDataset, links: Path) -> None:
    """Writes the statistics of each episode: the original's, and what it lacks computed from its frames.

    LeRobot needs those of every camera: even where it normalizes with ImageNet's, it enters them there.
    """
    path, total = links / LEGACY_EPISODES_STATS_PATH, len(dataset.episodes)
    given: list[dict[str, Any]] = [{}] * total
    if dataset.has_episode_statistics:
        given = usable_statistics(dataset, dataset.read_statistics())
    missing = [key for key in described_keys(dataset) if key not in given[0]]
    if dataset.has_episode_statistics and missing:
        logger.info(
            "%s has no complete statistics of %s; they are computed.",
            LEGACY_EPISODES_STATS_PATH,
            ", ".join(missing),
        )
    text = path.read_text() if path.exists() else ""
    complete = text[: text.rfind("\n") + 1]  # a run that was killed may have left half a line
    if complete != text:
        write_text(path, complete)
    done = complete.count("\n")
    with path.open("a") as file:
        for episode in tqdm(
            range(done, total), initial=done, total=total, unit="episode", desc="Computing statistics"
        ):
            statistics = given[episode]
            if missing:
                statistics = {**statistics, **episode_statistics(dataset, episode, missing)}
            file.write(json.dumps({"episode_index": episode, "stats": serialize_dict(statistics)}) + "\n")
            file.flush()


def _join_data(dataset: LegacyDataset, root: Path) -> list[dict[str, Any]]:
    """Writes the data files, with one row group per episode, and returns where each episode is.

    LeRobot's converter uses pandas, which turns NaN into null, which LeRobot then cannot read.
    """
    entries: list[dict[str, Any]] = []
    schema, writer, size, chunk, file = None, None, 0.0, 0, 0
    try:
        for episode in tqdm(range(len(dataset.episodes)), unit="episode", desc="Joining data files"):
            table = dataset.read_table(episode)
            _check_embedded(dataset, episode, table)
            schema = schema or _image_schema(table.schema, dataset.image_keys)
            try:
                table = table.select([*schema.names, *(set(table.column_names) - set(schema.names))])
                table = table.cast(schema)
            except (KeyError, ValueError, pa.ArrowException) as error:
                raise ValueError(
                    f"{dataset.root}: episode {episode} has other columns than episode 0: {error}. Download the "
                    "dataset again."
                ) from error
            episode_size = get_parquet_file_size_in_mb(dataset.data_path(episode))
            if writer is not None and size + episode_size >= DEFAULT_DATA_FILE_SIZE_IN_MB:
                writer.close()
                writer, size = None, 0.0
                chunk, file = update_chunk_file_indices(chunk, file, DEFAULT_CHUNK_SIZE)
            if writer is None:
                path = inside(root / DEFAULT_DATA_PATH.format(chunk_index=chunk, file_index=file), root)
                path.parent.mkdir(parents=True, exist_ok=True)
                writer = pq.ParquetWriter(path, schema)
            writer.write_table(table)
            size += episode_size
            start = entries[-1]["dataset_to_index"] if entries else 0
            entries.append(
                {
                    "episode_index": episode,
                    "data/chunk_index": chunk,
                    "data/file_index": file,
                    "dataset_from_index": start,
                    "dataset_to_index": start + len(table),
                }
            )
    finally:
        if writer is not None:
            writer.close()
    return entries


def _check_embedded(dataset: LegacyDataset, episode: int, table: pa.Table) -> None:
    """Refuses images that are only paths, which readers of the result would look for on their own machine."""
    for key in dataset.image_keys:
        kind = table.schema.field(key).type if key in table.column_names else None
        embedded = kind is None or (
            pa.types.is_struct(kind)
            and kind.get_field_index("bytes") >= 0
            and not pc.struct_field(table[key], "bytes").null_count
        )
        if not embedded:
            raise ValueError(
                f"{dataset.root}: episode {episode}, {key}: images are not embedded in the data file. Download the "
                "dataset again."
            )


def _image_schema(schema: pa.Schema, image_keys: list[str]) -> pa.Schema:
    """Marks the columns that the library `datasets` decodes as images."""
    features = datasets.Features.from_arrow_schema(schema.remove_metadata())
    return datasets.Features({**features, **{key: datasets.Image() for key in image_keys}}).arrow_schema


def _write_metadata(
    dataset: LegacyDataset,
    links: Path,
    root: Path,
    data: list[dict[str, Any]],
    videos: list[dict[str, Any]],
    video_file_size_in_mb: int,
) -> None:
    """Writes everything under `meta`."""
    shutil.rmtree(inside(root / "meta", root), ignore_errors=True)  # of a call that was interrupted here
    convert_info(links, root, DEFAULT_DATA_FILE_SIZE_IN_MB, video_file_size_in_mb)
    info = load_info(root)
    if info.fps != dataset.info["fps"]:  # the converter drops the decimals
        info.fps = dataset.info["fps"]
        for feature in info.features.values():
            if "fps" in feature:
                feature["fps"] = info.fps
        write_info(info, root)
    convert_tasks(links, root)
    _write_episodes(dataset, links, root, data, videos)
    for path in dataset.other_metadata():
        target = inside(root / "meta" / path.name, root)
        if not target.exists():
            shutil.copyfile(path, target)


def _write_episodes(
    dataset: LegacyDataset,
    links: Path,
    root: Path,
    data: list[dict[str, Any]],
    videos: list[dict[str, Any]],
) -> None:
    """Writes `meta/episodes` and `meta/stats.json`.

    LeRobot's converter holds the statistics of all episodes in memory and refuses datasets in which they exceed 100 MB;
    here the files are written one after the other.
    """
    chunk, file, features, aggregated = 0, 0, None, []
    with (links / LEGACY_EPISODES_STATS_PATH).open() as lines:
        while batch := list(itertools.islice(lines, _EPISODES_PER_FILE)):
            statistics = {
                line["episode_index"]: _as_float64(cast_stats_to_numpy(line["stats"]))
                for line in map(json.loads, batch)
            }
            part = slice(min(statistics), max(statistics) + 1)
            legacy = {episode["episode_index"]: episode for episode in dataset.episodes[part]}
            rows = list(generate_episode_metadata_dict(legacy, data[part], statistics, videos[part]))
            for row in rows:
                row["meta/episodes/chunk_index"], row["meta/episodes/file_index"] = chunk, file
            try:
                table = datasets.Dataset.from_list(rows, features=features)
            except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
                raise ValueError(
                    f"{dataset.root / LEGACY_EPISODES_PATH}: a field has values of different types, or too large ones "
                    f"({error}). Correct it, or download the dataset again."
                ) from error
            features = table.features
            path = inside(root / DEFAULT_EPISODES_PATH.format(chunk_index=chunk, file_index=file), root)
            path.parent.mkdir(parents=True, exist_ok=True)
            table.to_parquet(path)
            aggregated.append(aggregate_stats(list(statistics.values())))
            chunk, file = update_chunk_file_indices(chunk, file, DEFAULT_CHUNK_SIZE)
    write_stats(aggregate_stats(aggregated), root)


def _as_float64(statistics: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
    """Converts statistics to one type, as JSON may hold 0 for one episode's minimum and 0.5 for another's."""
    return {
        key: {name: value if name == "count" else value.astype(np.float64) for name, value in feature.items()}
        for key, feature in statistics.items()
    }


def _write_lines(path: Path, content: Iterable[dict[str, Any]]) -> None:
    """Writes a JSON-lines file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        file.writelines(json.dumps(line) + "\n" for line in content)
