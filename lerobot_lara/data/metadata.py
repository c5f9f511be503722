"""Opens the metadata of LeRobot datasets of format v3, after checking the files that LeRobot is about to read.

A dataset may be damaged, half downloaded or a stranger's. LeRobot's own errors then name neither the file nor the
field, and its paths are made of what the files say.
"""

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets.exceptions import DatasetsError
from lerobot.datasets.dataset_metadata import CODEBASE_VERSION, LeRobotDatasetMetadata
from lerobot.datasets.utils import (
    DEFAULT_TASKS_PATH,
    EPISODES_DIR,
    INFO_PATH,
    STATS_PATH,
    check_version_compatibility,
)
from packaging.version import InvalidVersion, Version

from lerobot_lara.data.dataset_rules import check_info
from lerobot_lara.data.tables import read_schema, read_table, unreadable_table
from lerobot_lara.files.links import check_source_file
from lerobot_lara.files.reading import REMEDY, check_content, read_json_object, shown, wrong_field

_MAX_COUNT = 10**12
_EPISODE_NUMBERS = (
    "episode_index",
    "length",
    "dataset_from_index",
    "dataset_to_index",
    "data/chunk_index",
    "data/file_index",
)


class CheckedMetadata(LeRobotDatasetMetadata):
    """LeRobot's metadata of a dataset on this machine or the Hub, checked before LeRobot reads them.

    Raises:
        ValueError: A file is damaged or wrong; names the file and the field.
        BackwardCompatibilityError: The dataset has an older format.
    """

    def _load_metadata(self) -> None:
        check_metadata(self.root, self.repo_id)
        try:
            super()._load_metadata()
        except (FileNotFoundError, NotADirectoryError):
            raise  # LeRobot downloads what is missing
        except (
            DatasetsError,
            pa.ArrowException,
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
            RuntimeError,
        ) as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno is not None:
                raise error.__cause__ from error  # a full disk, behind `datasets`
            for path in sorted((self.root / EPISODES_DIR).glob("*/*.parquet")):
                read_table(path)  # all columns, the damaged ones included
            raise ValueError(
                f"{self.root / 'meta'}: LeRobot cannot read these metadata ({type(error).__name__}: "
                f"{shown(error, str)}). Download the dataset again."
            ) from error


def check_metadata(root: Path, repo_id: str) -> None:
    """Checks the files in the folder `meta` of a dataset of format v3.

    Args:
        root: Folder of the dataset.
        repo_id: Its name.

    Raises:
        FileNotFoundError: One of the files is missing.
        ValueError: A file is damaged or wrong, or leads out of the dataset; names the file and the field.
        BackwardCompatibilityError: The dataset has an older format.
    """
    path = root / INFO_PATH
    _check_present(path, root)
    info = read_json_object(path)
    version = info.get("codebase_version")
    try:
        parsed = Version(version if isinstance(version, str) else "")
    except InvalidVersion:
        raise wrong_field(
            path, "codebase_version", version, f"a version, such as {CODEBASE_VERSION}"
        ) from None
    check_version_compatibility(repo_id, parsed, CODEBASE_VERSION)
    check_info(info, path)
    for field in ("total_episodes", "total_tasks"):
        if not info.get(field):
            raise wrong_field(
                path, field, info.get(field), "at least 1: a dataset without episodes is of no use"
            )
    if (root / STATS_PATH).exists():
        _check_statistics(root / STATS_PATH, root)
    _check_tasks(root / DEFAULT_TASKS_PATH, root)
    videos = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
    _check_episodes(root, videos, info["total_episodes"])


def check_data_files(meta: LeRobotDatasetMetadata, episodes: Iterable[int]) -> None:
    """Checks the files of episodes as far as they are on this machine: links, Git LFS pointers, columns of tables.

    Args:
        meta: The checked metadata of the dataset.
        episodes: Numbers of the episodes in use.

    Raises:
        ValueError: A file leads out of the dataset, or a table cannot be read or lacks a column; names the file.
    """
    names = ["data/chunk_index", "data/file_index"]
    for key in meta.video_keys:
        names += [f"videos/{key}/chunk_index", f"videos/{key}/file_index"]
    numbers = meta.episodes.select_columns(names).to_pandas().iloc[list(episodes)]
    expected = {key for key in meta.features if key not in meta.video_keys}
    for chunk, file in _distinct(numbers, "data"):
        path = meta.root / meta.data_path.format(chunk_index=chunk, file_index=file)
        if not path.is_file():
            continue  # LeRobot downloads it
        check_source_file(path, meta.root)
        lacking = sorted(expected - set(read_schema(path).names))
        if lacking:
            raise ValueError(
                f"{path} lacks the column `{lacking[0]}`, which {INFO_PATH} describes. Download the dataset again, or "
                "remove it from `features` there."
            )
    for key in meta.video_keys:
        for chunk, file in _distinct(numbers, f"videos/{key}"):
            path = meta.root / meta.video_path.format(video_key=key, chunk_index=chunk, file_index=file)
            if path.is_file():
                check_source_file(path, meta.root)


def _distinct(numbers: pd.DataFrame, prefix: str) -> list[tuple[int, int]]:
    """The different pairs of a chunk and a file."""
    pairs = numbers[[f"{prefix}/chunk_index", f"{prefix}/file_index"]].drop_duplicates()
    return [(int(chunk), int(file)) for chunk, file in pairs.itertuples(index=False)]


def _check_present(path: Path, root: Path) -> None:
    """Checks that a metadata file is there, inside of the dataset, and no Git LFS pointer."""
    if path.is_symlink():
        check_source_file(path, root)
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    check_source_file(path, root)
    check_content([path])


def _check_statistics(path: Path, root: Path) -> None:
    """Checks that `stats.json` has the form that LeRobot unpacks; what the numbers are worth is checked later."""
    _check_present(path, root)
    for key, values in read_json_object(path).items():
        if not isinstance(values, dict) or "/" in key:
            raise wrong_field(path, key, values, "an object of statistics, under the key of a feature")
        for name, value in values.items():
            if "/" in name or not _is_numeric(value):
                raise wrong_field(path, f"{key}.{name}", value, "a number, or a list of numbers")


def _is_numeric(value: Any) -> bool:
    """Whether a value is a number or a regular array of numbers."""
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):
        return False
    return array.dtype.kind in "biuf"


def _check_tasks(path: Path, root: Path) -> None:
    """Checks that the table of tasks has texts as its index and numbers them in order, as LeRobot looks them up."""
    _check_present(path, root)
    read_schema(path)
    try:
        tasks = pd.read_parquet(path)
    except Exception as error:  # pandas promises nothing about what it raises for odd metadata of a table
        raise unreadable_table(path, error) from error
    texts = all(isinstance(task, str) for task in tasks.index)
    if "task_index" not in tasks.columns or not texts or not len(tasks):
        raise ValueError(
            f"{path} has the columns {shown(list(tasks.columns))} and the index {shown(tasks.index.name)}; it must "
            f"have the texts of the tasks as its index and a column `task_index`. {REMEDY}"
        )
    if tasks["task_index"].tolist() != list(range(len(tasks))):
        raise wrong_field(
            path,
            "task_index",
            tasks["task_index"].tolist(),
            f"0 to {len(tasks) - 1} in order, as LeRobot counts rows",
        )


def _check_episodes(root: Path, videos: list[str], total: int) -> None:
    """Checks the columns of the episodes' table that LeRobot and this package use."""
    folder = root / EPISODES_DIR
    paths = sorted(folder.glob("*/*.parquet"))
    if not paths:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    places = [f"videos/{key}/{name}" for key in videos for name in ("chunk_index", "file_index")]
    times = [f"videos/{key}/{name}" for key in videos for name in ("from_timestamp", "to_timestamp")]
    numbers = [*_EPISODE_NUMBERS, *places]
    count = 0
    for path in paths:
        _check_present(path, root)
        schema = read_schema(path)
        for name in (*numbers, *times, "tasks"):
            _check_column(path, schema, name, name in times)
        table = read_table(path, [*numbers, *times, "tasks"])
        _check_rows(path, table, numbers, times, first=count)
        count += len(table)
    if count != total:
        raise ValueError(
            f"{root / INFO_PATH}: `total_episodes` is {total}, but {folder} describes {count} episodes; they must be "
            "equal. Download the dataset again."
        )


def _check_column(path: Path, schema: pa.Schema, name: str, is_time: bool) -> None:
    """Checks the type of a column."""
    if name not in schema.names:
        raise ValueError(f"{path} lacks the column `{name}`. Download the dataset again.")
    found = schema.field(name).type
    if name == "tasks":
        right = (pa.types.is_list(found) or pa.types.is_large_list(found)) and (
            pa.types.is_string(found.value_type) or pa.types.is_large_string(found.value_type)
        )
        expected = "a list of texts"
    elif is_time:
        right, expected = pa.types.is_floating(found) or pa.types.is_integer(found), "numbers of seconds"
    else:
        right, expected = pa.types.is_integer(found), "whole numbers"
    if not right:
        raise wrong_field(path, name, found, f"a column of {expected}")


def _check_rows(path: Path, table: pa.Table, numbers: list[str], times: list[str], *, first: int) -> None:
    """Checks the values of the episodes, the first of which has the number `first`."""
    for name in (*numbers, *times, "tasks"):
        if table[name].null_count:
            raise wrong_field(path, name, None, "given for every episode")
    for name in (*numbers, *times):
        if not len(table):
            continue
        # The comparison is false for NaN.
        good = pc.and_(pc.greater_equal(table[name], 0), pc.less_equal(table[name], _MAX_COUNT))
        if not pc.all(good).as_py():
            row = good.to_pylist().index(False)
            raise wrong_field(
                path, f"{name} of episode {first + row}", table[name][row].as_py(), f"from 0 to {_MAX_COUNT}"
            )
    columns = {name: table[name].to_numpy() for name in numbers}
    rules = {
        "episode_index": (columns["episode_index"], first + np.arange(len(table)), "its number"),
        "length": (
            columns["length"],
            columns["dataset_to_index"] - columns["dataset_from_index"],
            "the distance from `dataset_from_index` to `dataset_to_index`",
        ),
        "dataset_to_index": (
            columns["dataset_to_index"] > columns["dataset_from_index"],
            True,
            "above `dataset_from_index`",
        ),
    }
    for name, (found, right, meaning) in rules.items():
        wrong = np.flatnonzero(found != right)
        if len(wrong):
            row = int(wrong[0])
            raise wrong_field(path, f"{name} of episode {first + row}", int(columns[name][row]), meaning)
