"""Makes one LeRobotDataset of clips that are stored as datasets of one episode each.

Files have the layout and the sizes that LeRobot gives them. Unlike LeRobot's own writer, which appends clip by clip,
every file is written once.
"""

import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from lerobot.datasets.compute_stats import aggregate_stats, compute_episode_stats
from lerobot.datasets.io_utils import load_info, load_stats, write_info, write_stats, write_tasks
from lerobot.datasets.utils import DEFAULT_EPISODES_PATH, update_chunk_file_indices
from lerobot.datasets.video_utils import concatenate_video_files
from lerobot.utils.constants import DEFAULT_FEATURES
from lerobot.utils.utils import flatten_dict

from lerobot_lara.data.metadata import CheckedMetadata
from lerobot_lara.data.video.dataset import ERRORS_PATH, MANIFEST_PATH
from lerobot_lara.data.video.decode import count_packets
from lerobot_lara.data.video.stage_clip import StagedClip

_REWRITTEN = {
    Path("meta") / "info.json",
    Path("meta") / "stats.json",
    Path("meta") / "tasks.parquet",
    MANIFEST_PATH,
    ERRORS_PATH,
}
_ROWS_AT_ONCE = 1000


def assemble(repo_id: str, folder: Path, clips: Sequence[StagedClip], *, base: Path | None) -> None:
    """Writes a dataset, without its manifest.

    Args:
        repo_id: Name of the dataset.
        folder: Folder to write; it must not exist.
        clips: Clips, each of which becomes an episode; at least one.
        base: Dataset whose episodes come first; its files are linked or copied, and stay as they are.
    """
    meta = None if base is None else CheckedMetadata(repo_id, root=base)
    if meta is None:
        info = load_info(clips[0].folder)
        info.total_episodes = info.total_frames = 0
    else:
        info = meta.info
    stats: Any = None if meta is None else meta.stats
    tasks = {} if meta is None or meta.tasks is None else dict(meta.tasks["task_index"])
    last: dict[str, Any] = {}
    if base is not None:
        _link_files(base, folder)
        if meta is not None and meta.episodes is not None:
            last = meta.episodes[-1]
    for clip in clips:
        tasks.setdefault(clip.task, len(tasks))

    rows = _episode_rows(clips, first_episode=info.total_episodes, first_frame=info.total_frames)
    limit = info.data_files_size_in_mb * 2**20
    data = _Files(info.data_path, "data", last, info.chunks_size, limit)
    for of_clip in _write_data(folder, clips, rows, tasks, data):
        stats = of_clip if stats is None else aggregate_stats([stats, of_clip])
    for key, feature in info.features.items():
        if feature["dtype"] == "video":
            videos = _Files(
                info.video_path, f"videos/{key}", last, info.chunks_size, info.video_files_size_in_mb * 2**20
            )
            _write_videos(folder, clips, rows, key, videos)
    _write_episodes(
        folder, clips, rows, _Files(DEFAULT_EPISODES_PATH, "meta/episodes", last, info.chunks_size, limit)
    )

    info.total_episodes += len(clips)
    info.total_frames += sum(clip.length for clip in clips)
    info.total_tasks = len(tasks)
    info.splits = {"train": f"0:{info.total_episodes}"}
    write_info(info, folder)
    write_stats({key: stats[key] for key in info.features if key in stats}, folder)
    write_tasks(_task_table(tasks), folder)


@dataclass
class _Files:
    """Numbers the files of one kind, which follow those of the dataset to which clips are added.

    Attributes:
        pattern: Path of a file within the dataset.
        column: Beginning of the columns that tell the files of an episode.
        last: Metadata of the last episode of that dataset; empty if there is none.
        chunks_size: Files in a chunk.
        limit: Bytes after which a file is full.
    """

    pattern: str
    column: str
    last: dict[str, Any]
    chunks_size: int
    limit: float
    place: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        before = self.last.get(f"{self.column}/chunk_index"), self.last.get(f"{self.column}/file_index")
        self.place = (0, 0) if None in before else update_chunk_file_indices(*before, self.chunks_size)

    def path(self, folder: Path, **names: str) -> Path:
        """The current file, whose folder is made."""
        path = folder / self.pattern.format(chunk_index=self.place[0], file_index=self.place[1], **names)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def advance(self) -> None:
        """Goes on to the next file."""
        self.place = update_chunk_file_indices(*self.place, self.chunks_size)

    def columns(self) -> dict[str, int]:
        """The columns of an episode in the current file."""
        return {f"{self.column}/chunk_index": self.place[0], f"{self.column}/file_index": self.place[1]}


class _Table:
    """Writes tables one after another to numbered Parquet files.

    Args:
        folder: Folder of the dataset.
        files: The files.
    """

    def __init__(self, folder: Path, files: _Files) -> None:
        self._folder, self._files = folder, files
        self._sink: pa.NativeFile | None = None
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "_Table":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def make_room(self, num_bytes: int) -> None:
        """Goes on to the next file if so many bytes more would exceed the limit of the current one."""
        if self._sink is not None and self._sink.tell() + num_bytes >= self._files.limit:
            self._close()
            self._files.advance()

    def write(self, table: pa.Table) -> None:
        """Writes a table to the current file."""
        if self._writer is None:
            self._sink = pa.OSFile(str(self._files.path(self._folder)), "wb")
            self._writer = pq.ParquetWriter(self._sink, table.schema, compression="snappy")
        self._writer.write_table(table)

    def _close(self) -> None:
        """Completes the current file."""
        if self._writer is not None and self._sink is not None:
            self._writer.close()
            self._sink.close()
        self._writer = self._sink = None


def _episode_rows(
    clips: Iterable[StagedClip], *, first_episode: int, first_frame: int
) -> list[dict[str, Any]]:
    """The metadata of each clip, as an episode of the dataset; the columns of files follow later."""
    rows = []
    for episode, clip in enumerate(clips, start=first_episode):
        row = _read_table(_episodes_path(clip)).to_pylist()[0]
        row |= {
            "episode_index": episode,
            "dataset_from_index": first_frame,
            "dataset_to_index": first_frame + clip.length,
        }
        first_frame += clip.length
        rows.append(row)
    return rows


def _write_data(
    folder: Path,
    clips: Iterable[StagedClip],
    rows: Iterable[dict[str, Any]],
    tasks: dict[str, int],
    files: _Files,
) -> Iterator[dict[str, Any]]:
    """Writes the frames' table, with the indices that the frames have in the dataset; yields each clip's statistics."""
    with _Table(folder, files) as output:
        for clip, row in zip(clips, rows, strict=True):
            path = next((clip.folder / "data").rglob("*.parquet"))
            table = _read_table(path)
            indices = {
                "episode_index": np.full(clip.length, row["episode_index"]),
                "index": np.arange(row["dataset_from_index"], row["dataset_to_index"]),
                "task_index": np.full(clip.length, tasks[clip.task]),
            }
            for name, values in indices.items():
                column = table.schema.get_field_index(name)
                values = pa.array(values, type=table.schema.field(column).type)
                table = table.set_column(column, table.schema.field(column), values)
            output.make_room(path.stat().st_size)
            output.write(table)
            # Those of the images are of the clip alone; those of the indices are not.
            stats = compute_episode_stats(indices, {name: DEFAULT_FEATURES[name] for name in indices})
            row |= files.columns()
            row |= {key: np.asarray(value).tolist() for key, value in flatten_dict({"stats": stats}).items()}
            yield load_stats(clip.folder) | stats


def _write_videos(
    folder: Path, clips: Iterable[StagedClip], rows: Iterable[dict[str, Any]], key: str, files: _Files
) -> None:
    """Joins the clips' videos, without encoding them again."""
    together: list[Path] = []
    size, time = 0, 0.0
    for clip, row in zip(clips, rows, strict=True):
        (path,) = (clip.folder / "videos").rglob("*.mp4")
        num_bytes = path.stat().st_size
        if together and size + num_bytes >= files.limit:
            _join_videos(together, files.path(folder, video_key=key))
            files.advance()
            together, size, time = [], 0, 0.0
        together.append(path)
        size += num_bytes
        start, end = (f"videos/{key}/{name}_timestamp" for name in ("from", "to"))
        duration = row[end] - row[start]
        row |= files.columns() | {start: time, end: time + duration}
        time += duration
    _join_videos(together, files.path(folder, video_key=key))


def _join_videos(paths: list[Path], output: Path) -> None:
    """Joins videos of one form into one file."""
    if len(paths) == 1:
        shutil.copyfile(paths[0], output)
    else:
        concatenate_video_files(list(paths), output)
        expected, count = sum(count_packets(path) for path in paths), count_packets(output)
        if count != expected:
            raise OSError(errno.EIO, f"only {count} of {expected} frames were written", str(output))


def _write_episodes(
    folder: Path, clips: Sequence[StagedClip], rows: list[dict[str, Any]], files: _Files
) -> None:
    """Writes the episodes' metadata, in the order of columns that LeRobot has given it."""
    path = _episodes_path(clips[0])
    schema, num_bytes = _read_table(path).schema, path.stat().st_size
    with _Table(folder, files) as output:
        for first in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[first : first + _ROWS_AT_ONCE]
            output.make_room(num_bytes * len(some))
            columns = files.columns()
            output.write(pa.Table.from_pylist([row | columns for row in some], schema=schema))


def _episodes_path(clip: StagedClip) -> Path:
    """The metadata of a clip's only episode."""
    return clip.folder / DEFAULT_EPISODES_PATH.format(chunk_index=0, file_index=0)


def _read_table(path: Path) -> pa.Table:
    """Reads one Parquet file."""
    with pq.ParquetFile(path) as file:
        return file.read()


def _task_table(tasks: dict[str, int]) -> pd.DataFrame:
    """The tasks, as LeRobot writes them."""
    return pd.DataFrame({"task_index": list(tasks.values())}, index=pd.Index(list(tasks), name="task"))


def _link_files(source: Path, folder: Path) -> None:
    """Links the files of a dataset, or copies them where links are not possible, but for those that are rewritten."""

    def left_out(parent: str, names: Iterable[str]) -> Iterator[str]:
        inside = Path(parent).relative_to(source)
        return (name for name in names if inside / name in _REWRITTEN)

    shutil.copytree(
        source, folder, copy_function=_link, ignore=lambda *found: set(left_out(*found)), symlinks=True
    )


def _link(source: str, target: str) -> None:
    """Links a file, or copies it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
