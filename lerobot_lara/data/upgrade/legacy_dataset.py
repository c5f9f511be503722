"""LeRobot datasets in the formats v2.0 and v2.1, in which each episode has a data file and a video per camera."""

import hashlib
import io
import itertools
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lerobot.datasets.utils import (
    INFO_PATH,
    LEGACY_EPISODES_PATH,
    LEGACY_EPISODES_STATS_PATH,
    LEGACY_TASKS_PATH,
)
from lerobot.datasets.video_utils import decode_video_frames
from PIL import Image
from tqdm import tqdm

from lerobot_lara.data.dataset_rules import check_legacy_info
from lerobot_lara.data.tables import read_schema, read_table
from lerobot_lara.data.upgrade.json_lines import read_json_lines
from lerobot_lara.files.links import check_source_file
from lerobot_lara.files.reading import check_content, read_json_object, shown, wrong_field
from lerobot_lara.files.user_path import user_path

logger = logging.getLogger(__name__)

UPGRADABLE = ("v2.0", "v2.1")
# How far a decoded frame may be from the requested time, in seconds; the default of LeRobotDataset.
TOLERANCE_S = 1e-4
# In frames: PyAV keeps all that it decodes between the first and the last requested frame.
_MAX_SPAN = 64
# Pillow would decode others too, some of them with programs that are installed.
_IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM")


@dataclass(frozen=True)
class LegacyDataset:
    """A dataset in format v2.0 or v2.1, opened for reading.

    Args:
        root: Folder with `meta`, `data` and `videos`.
        info: Content of `meta/info.json`.
        episodes: Lines of `meta/episodes.jsonl` in order: `episode_index`, `tasks`, `length`.
        tasks: Task strings by task index.
    """

    root: Path
    info: dict[str, Any]
    episodes: list[dict[str, Any]]
    tasks: list[str]

    @property
    def version(self) -> str:
        """Format of the dataset."""
        return self.info["codebase_version"]

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """Features by key."""
        return self.info["features"]

    @property
    def image_keys(self) -> list[str]:
        """Cameras whose images are in the data files."""
        return [key for key, feature in self.features.items() if feature["dtype"] == "image"]

    @property
    def video_keys(self) -> list[str]:
        """Cameras whose images are in videos, sorted."""
        return sorted(key for key, feature in self.features.items() if feature["dtype"] == "video")

    @property
    def num_frames(self) -> int:
        """Frames of all episodes together."""
        return sum(episode["length"] for episode in self.episodes)

    @property
    def has_episode_statistics(self) -> bool:
        """Whether the dataset has statistics for each episode, as v2.1 does."""
        return (self.root / LEGACY_EPISODES_STATS_PATH).is_file()

    def data_path(self, episode: int) -> Path:
        """Data file of an episode."""
        return self._path("data_path", episode)

    def video_path(self, episode: int, key: str) -> Path:
        """Video of a camera in an episode."""
        return self._path("video_path", episode, key)

    def read_table(self, episode: int) -> pa.Table:
        """Reads an episode's columns, with one row per frame and without videos."""
        return read_table(self.data_path(episode))

    def read_statistics(self) -> list[dict[str, Any]]:
        """Reads the statistics of each episode; see `has_episode_statistics`.

        Raises:
            ValueError: The file is damaged, or does not have one line for each episode.
        """
        path, total = self.root / LEGACY_EPISODES_STATS_PATH, len(self.episodes)
        lines = read_json_lines(path, "statistics")
        if len(lines) != total:
            raise ValueError(
                f"{path} does not have one line for each of the {total} episodes. Download it again, or remove it from "
                "a copy of the dataset to have the statistics computed."
            )
        return [line["stats"] for line in lines]

    def other_metadata(self) -> list[Path]:
        """Files in `meta` that an upgrade copies, e.g. GR00T's modality.json, except links that lead elsewhere."""
        known = {Path(path).name for path in (INFO_PATH, LEGACY_EPISODES_PATH, LEGACY_TASKS_PATH)}
        known |= {Path(LEGACY_EPISODES_STATS_PATH).name, "stats.json", "tasks.parquet", "upgrade.json"}
        found = []
        for path in sorted((self.root / "meta").iterdir()):
            if path.name in known or not path.is_file():
                continue
            try:
                check_source_file(path, self.root)
            except ValueError as error:
                logger.warning("%s It is left out.", error)
            else:
                found.append(path)
        return found

    def _path(self, template: str, episode: int, key: str = "") -> Path:
        """Fills a template of meta/info.json."""
        chunk = episode // self.info["chunks_size"]
        # Some tools write the newer placeholder `chunk_index` into v2.1 datasets.
        name = self.info[template].format(
            episode_chunk=chunk, chunk_index=chunk, episode_index=episode, video_key=key
        )
        return self.root / name


def open_legacy_dataset(source: str | Path, *, revision: str | None = None) -> LegacyDataset:
    """Opens a dataset, which is first downloaded into the Hub's cache unless it is a local folder.

    Args:
        source: Folder of the dataset, or its id on the Hub, user/name.
        revision: Branch, tag or commit on the Hub.

    Raises:
        ValueError: There is no such dataset, it has another format, or metadata or files of episodes are missing.
    """
    root = local_directory(source) or _download(str(source), revision)
    info = read_info(root)
    for name in (LEGACY_EPISODES_PATH, LEGACY_TASKS_PATH, LEGACY_EPISODES_STATS_PATH):
        check_source_file(root / name, root)
    episodes = read_json_lines(root / LEGACY_EPISODES_PATH, "episode")
    tasks = [line["task"] for line in read_json_lines(root / LEGACY_TASKS_PATH, "task")]
    dataset = LegacyDataset(root, info, episodes, tasks)
    check_content(dataset.other_metadata())
    _check_files(dataset)
    return dataset


def local_directory(source: str | Path) -> Path | None:
    """Returns `source` as a folder, or None if it is the id of a dataset on the Hub.

    Raises:
        ValueError: It is neither.
    """
    path = user_path(source)
    if path.is_dir():
        return path.resolve()
    if isinstance(source, Path) or path.exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source):
        raise ValueError(f"`source` is {source}; it must be a folder or a Hub id of the form user/name.")
    return None


def read_info(root: Path) -> dict[str, Any]:
    """Reads `meta/info.json` of a dataset that can be upgraded.

    Raises:
        ValueError: It is missing or unreadable, or names a format other than v2.0 and v2.1.
    """
    path = root / INFO_PATH
    if not path.is_file():
        raise ValueError(
            f"{root} is not a LeRobot dataset: it has no {INFO_PATH}. Give the folder that contains meta/."
        )
    check_source_file(path, root)
    info = read_json_object(path)
    version, missing = info.get("codebase_version"), {"fps", "features", "chunks_size"} - set(info)
    if str(version).startswith("v3."):
        raise ValueError(
            f"{root} already has format {shown(version, str)}. Use it as it is, or give the revision of an older "
            "version of the dataset on the Hub."
        )
    if version not in UPGRADABLE:
        raise ValueError(
            f"{root} has format {shown(version, str)}; it must be {' or '.join(UPGRADABLE)} to be upgraded. Older "
            "releases of LeRobot convert v1 datasets to v2.0 with convert_dataset_v1_to_v2.py; do that first."
        )
    if missing:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}. Download the dataset again.")
    check_legacy_info(info, path)
    return info


def info_digest(root: Path) -> str:
    """Hashes `meta/info.json`, which reveals that a source has changed."""
    check_source_file(root / INFO_PATH, root)
    return hashlib.sha256((root / INFO_PATH).read_bytes()).hexdigest()


def decode_frames(path: Path, timestamps: Sequence[float], fps: float) -> Iterator[np.ndarray]:
    """Decodes frames of a video.

    Args:
        path: The video.
        timestamps: Times of the frames in seconds, ascending.
        fps: Frames per second of the dataset.

    Yields:
        (3, H, W) uint8 RGB for each time.

    Raises:
        ValueError: The video has no frame at one of the times.
    """
    for _, group in itertools.groupby(
        timestamps, key=lambda time: int((time - timestamps[0]) * fps) // _MAX_SPAN
    ):
        yield from decode_video_frames(path, list(group), TOLERANCE_S, return_uint8=True).numpy()


def decode_image(cell: dict[str, Any]) -> np.ndarray:
    """Decodes an image from a column of a data file.

    Args:
        cell: `bytes` and `path` of an image, as the library `datasets` stores them.

    Returns:
        (3, H, W) uint8 RGB.

    Raises:
        ValueError: The data file does not hold the image itself, or it is too large.
    """
    if not isinstance(cell, dict) or not isinstance(cell.get("bytes"), bytes):
        name = cell.get("path") if isinstance(cell, dict) else cell
        raise ValueError(f"the image {shown(name)} is not embedded in the data file")
    try:
        image = Image.open(io.BytesIO(cell["bytes"]), formats=_IMAGE_FORMATS).convert("RGB")
    except Image.DecompressionBombError as error:
        raise ValueError(f"the image is too large: {error}") from error
    return np.asarray(image).transpose(2, 0, 1)


def clip_length(path: Path, fps: float) -> int | None:
    """Number of frames of a video, as its header tells it.

    Args:
        path: The video.
        fps: Frames per second of the dataset, for headers that tell only the duration.

    Returns:
        The number, or None if the header tells neither.

    Raises:
        ValueError: It cannot be opened, or holds no video.
    """
    try:
        with av.open(str(path)) as container:
            stream, seconds = container.streams.video[0], None
            frames = stream.frames
            if stream.duration and stream.time_base:
                seconds = float(stream.duration * stream.time_base)
            elif container.duration:
                seconds = container.duration / av.time_base
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"{path} cannot be opened as a video ({error}). Download it again.") from error
    if frames:
        return frames
    return None if seconds is None else round(seconds * fps)


def _download(repo_id: str, revision: str | None) -> Path:
    """Downloads a dataset into the Hub's cache."""
    from huggingface_hub import hf_hub_download, snapshot_download

    where: dict[str, Any] = {"repo_id": repo_id, "repo_type": "dataset", "revision": revision}
    try:
        # The format is checked first, as a whole dataset can be hundreds of gigabytes.
        read_info(Path(hf_hub_download(filename=INFO_PATH, **where)).parents[1])
        return Path(snapshot_download(allow_patterns=["meta/*", "data/*", "videos/*"], **where))
    except OSError as error:  # offline, no such repository or revision, no access
        at = f" at revision {revision}" if revision else ""
        raise ValueError(
            f"`source` is {repo_id}, which is not a folder, and the dataset {repo_id}{at} could not be downloaded from "
            f"the Hub ({type(error).__name__}: {str(error).strip().splitlines()[0]}). Check the name, the connection "
            "and HF_HUB_OFFLINE, or download it elsewhere and give the folder."
        ) from error


def _check_files(dataset: LegacyDataset) -> None:
    """Checks that the files of all episodes exist and hold the columns that the metadata describes."""
    info, total = dataset.info, len(dataset.episodes)
    if total == 0:
        raise ValueError(f"{dataset.root} has no episodes. Give a dataset that has some.")
    if info.get("total_episodes", total) != total:
        raise ValueError(
            f"{dataset.root / INFO_PATH} counts {info['total_episodes']} episodes, but {LEGACY_EPISODES_PATH} has "
            f"{total}. Download the dataset again."
        )
    data = [dataset.data_path(episode) for episode in range(total)]
    videos = [dataset.video_path(episode, key) for episode in range(total) for key in dataset.video_keys]
    paths = [*data, *videos]
    missing = [str(path.relative_to(dataset.root)) for path in paths if not path.is_file()]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise ValueError(
            f"{dataset.root} lacks files of episodes, as after an interrupted download: "
            f"{', '.join(missing[:5])}{more}. Download them."
        )
    for path in paths:
        check_source_file(path, dataset.root)
    check_content(data, videos)
    columns = set(read_schema(dataset.data_path(0)).names)
    expected = set(dataset.features) - set(dataset.video_keys)
    if columns != expected:
        raise ValueError(
            f"{dataset.data_path(0)} has the columns {sorted(columns)}, but {INFO_PATH} describes {sorted(expected)}. "
            "Correct the `features` there."
        )
    if dataset.has_episode_statistics:
        dataset.read_statistics()
    for episode in tqdm(range(total), unit="episode", desc="Checking data files"):
        _check_data_file(dataset, episode)
    _check_shapes(dataset)


def _check_shapes(dataset: LegacyDataset) -> None:
    """Compares the shapes of numeric features with the first row of the first data file."""
    row = dataset.read_table(0).slice(0, 1)
    for key, feature in dataset.features.items():
        if feature["dtype"] in ("string", "image", "video"):
            continue
        value, shape = row[key][0].as_py(), tuple(feature["shape"])
        try:
            found = np.shape(value)
        except ValueError:  # lists of different lengths
            raise wrong_field(
                dataset.root / INFO_PATH, f"features.{key}.shape", feature["shape"], "that of a regular array"
            ) from None
        if value is not None and found != shape and not (found == () and shape == (1,)):
            raise wrong_field(
                dataset.root / INFO_PATH,
                f"features.{key}.shape",
                feature["shape"],
                f"{list(found) or [1]}, as in {dataset.data_path(0)}",
            )


def _check_data_file(dataset: LegacyDataset, episode: int) -> None:
    """Checks the length and the tasks of an episode's data file, of which it reads one column."""
    path, length = dataset.data_path(episode), dataset.episodes[episode]["length"]
    table = read_table(path, ["task_index"])
    if len(table) != length:
        raise ValueError(
            f"{dataset.root}: episode {episode} has {len(table)} frames in its data file, but {length} in "
            f"{LEGACY_EPISODES_PATH}. Download the dataset again."
        )
    if table.column_names != ["task_index"] or not pa.types.is_integer(table["task_index"].type):
        raise ValueError(
            f"{path}: the data file of episode {episode} has no integer column `task_index`. Download it again."
        )
    column = table["task_index"]
    bounds = pc.min_max(column).as_py()
    if column.null_count or bounds["min"] < 0 or bounds["max"] >= len(dataset.tasks):
        found = None if column.null_count else bounds["min"] if bounds["min"] < 0 else bounds["max"]
        raise ValueError(
            f"{path}: `task_index` of episode {episode} is {found}; it must be from 0 to {len(dataset.tasks) - 1}, as "
            f"{LEGACY_TASKS_PATH} has {len(dataset.tasks)} tasks. Download the dataset again."
        )
