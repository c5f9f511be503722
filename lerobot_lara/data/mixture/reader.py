"""Reads single columns of a LeRobotDataset: the frame pairs and vectors of mixtures, probes and data pages.

LeRobot's own item access decodes every image of every row that it touches. A pair of frames with an action chunk
touches many rows but needs only two images.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.video_utils import FrameTimestampError, decode_video_frames
from torch import Tensor

from lerobot_lara.data.mixture.unreadable import DECODING_ERRORS, UnreadableFrameError, unreadable


@dataclass(frozen=True)
class VideoPart:
    """Where an episode of a camera is stored.

    Args:
        file: The video.
        start: Second at which the episode starts in it.
        end: Second at which it ends.
    """

    file: Path
    start: float
    end: float


class ColumnReader:
    """Reads columns of the selected episodes of a dataset, by row.

    It holds only the memory-mapped table, so copies of it in data-loading workers cost no memory.

    Args:
        dataset: Its table and metadata are read; its own windows and image transforms play no part.
        name: Name of the dataset in errors.
        video_backend: LeRobot's name of the video decoder.
        tolerance_s: How far a decoded frame may be from its timestamp, in seconds.

    Attributes:
        tolerance_s: As given.
        episodes: Number of each selected episode in the dataset, in order.
        starts: (episodes,) int64, row of each episode's first frame.
        lengths: (episodes,) int64, frames of each episode.
    """

    def __init__(self, dataset: LeRobotDataset, *, name: str, video_backend: str, tolerance_s: float) -> None:
        self._table = dataset.hf_dataset
        self._meta = dataset.meta
        self._root = Path(dataset.root)
        self._name = name
        self._video_backend = video_backend
        self.tolerance_s = tolerance_s
        self._tasks = [str(task) for task in dataset.meta.tasks.index]
        self._image_feature = datasets.Image()
        self._videos: dict[str, np.ndarray] = {}
        column = self._table.data.column("episode_index").to_numpy()
        starts = np.flatnonzero(np.diff(column, prepend=column[0] - 1)) if len(column) else np.zeros(0, int)
        self.episodes: list[int] = column[starts].tolist()
        self.starts = starts.astype(np.int64)
        # Indices in the dataset of their first frames.
        self._first_indices = self._table.data.column("index").take(starts).to_numpy()
        self.lengths = np.diff(starts, append=len(column)).astype(np.int64)

    def num_pairs(self, frame_gap: int) -> np.ndarray:
        """Number of frame pairs (o_t, o_{t+K}) within each episode.

        Args:
            frame_gap: K, in frames; with 0 every frame counts.

        Returns:
            (episodes,) int64.
        """
        return np.maximum(self.lengths - frame_gap, 0)

    def pair(self, key: str, position: int, start: int, frame_gap: int) -> Tensor:
        """The frame pair (o_t, o_{t+K}) of a camera.

        Args:
            key: Camera of the dataset.
            position: Position of the episode among the selected ones.
            start: t, number of the first frame within the episode.
            frame_gap: K, in frames; the pair must lie within the episode.

        Returns:
            (2, C, H, W) uint8.
        """
        row = int(self.starts[position]) + start
        return self.images(key, self.episodes[position], [row, row + frame_gap])

    def window(self, position: int, row: int, deltas: Sequence[int]) -> tuple[list[int], np.ndarray]:
        """Rows around a row, clamped to its episode.

        Args:
            position: Position of the episode among the selected ones.
            row: Row of the table, within that episode.
            deltas: n distances from the row, in frames.

        Returns:
            n rows, and (n,) bool, True where the wanted row is outside the episode and was clamped.
        """
        start = int(self.starts[position])
        last = start + int(self.lengths[position]) - 1
        wanted = [row + delta for delta in deltas]
        rows = [min(max(each, start), last) for each in wanted]
        return rows, np.array([each != clamped for each, clamped in zip(wanted, rows, strict=True)], bool)

    def numbers(self, key: str, rows: Sequence[int]) -> np.ndarray:
        """Values of a numeric column at rows of one episode.

        Args:
            key: Column with a scalar or a vector (D,) per row.
            rows: n rows close to one another; may repeat.

        Returns:
            (n, D); D = 1 for a scalar.
        """
        first, last = min(rows), max(rows)
        chunk = self._table.data.column(key).slice(first, last - first + 1).combine_chunks()
        return to_array(chunk)[np.asarray(rows) - first]

    def all_numbers(self, key: str) -> Iterator[tuple[int, np.ndarray]]:
        """Reads a whole numeric column, in parts that fit into memory.

        Args:
            key: Column with a scalar or a vector (D,) per row.

        Yields:
            First row of a part, and its values, (n, D); D = 1 for a scalar. Missing values are NaN.
        """
        row = 0
        for chunk in self._table.data.column(key).chunks:
            if len(chunk):
                yield row, to_array(chunk)
            row += len(chunk)

    def place(self, row: int) -> tuple[int, int]:
        """The number of a row's episode in the dataset, and of its frame within the episode."""
        position = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.episodes[position], row - int(self.starts[position])

    def index(self, position: int, row: int) -> int:
        """The index in the dataset of a row.

        Args:
            position: Position of its episode among the selected ones.
            row: Row of the table.
        """
        return int(self._first_indices[position]) + row - int(self.starts[position])

    def text(self, key: str, row: int) -> str:
        """The text of a text column at a row."""
        return str(self._table.data.column(key)[row].as_py())

    def distinct_texts(self, key: str) -> list[str]:
        """The different texts of a text column, sorted."""
        return sorted(str(text) for text in self._table.data.column(key).unique().to_pylist())

    def task(self, row: int) -> str:
        """LeRobot's task at a row."""
        return self.tasks()[int(self._table.data.column("task_index")[row].as_py())]

    def tasks(self) -> list[str]:
        """LeRobot's tasks of the dataset, by task index."""
        return self._tasks

    def images(self, key: str, episode: int, rows: Sequence[int]) -> Tensor:
        """Frames of a camera at rows of one episode; a row that is repeated is decoded once.

        Args:
            key: Camera of the dataset.
            episode: Number of the episode in the dataset.
            rows: n rows of that episode.

        Returns:
            (n, C, H, W) uint8.

        Raises:
            UnreadableFrameError: One of them cannot be decoded.
        """
        distinct = sorted(set(rows))
        if self.is_video(key):
            frames = self._decode_video(key, episode, distinct, self._video_backend)
        else:
            frames = torch.stack([self._decode_image(key, row) for row in distinct])
        return frames if distinct == list(rows) else frames[[distinct.index(row) for row in rows]]

    def is_video(self, key: str) -> bool:
        """Whether a camera of the dataset is stored as video, not as images in the table."""
        return key in self._meta.video_keys

    def try_frame(self, key: str, row: int) -> None:
        """Decodes a frame of a video and drops it.

        Decodes with PyAV: the decoders that LeRobot keeps for torchcodec must not be shared with data-loading workers.

        Raises:
            UnreadableFrameError: It cannot be decoded.
        """
        self._decode_video(key, self.place(row)[0], [row], "pyav")

    def video(self, key: str, episode: int) -> VideoPart:
        """Where an episode of a camera of the dataset is stored."""
        if key not in self._videos:
            names = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
            columns = [f"videos/{key}/{name}" for name in names]
            rows = self._meta.episodes.select_columns(columns).to_pandas()
            self._videos[key] = rows[columns].to_numpy(dtype=np.float64)
        chunk, file, start, end = self._videos[key][episode]
        name = self._meta.video_path.format(video_key=key, chunk_index=int(chunk), file_index=int(file))
        return VideoPart(self._root / name, float(start), float(end))

    def _decode_video(self, key: str, episode: int, rows: list[int], backend: str) -> Tensor:
        """Decodes frames of a video: (n, C, H, W) uint8."""
        part = self.video(key, episode)
        timestamps = [part.start + float(time) for time in self.numbers("timestamp", rows)[:, 0]]
        try:
            return self._decode_nearest(part.file, timestamps, backend)
        except DECODING_ERRORS as error:
            raise self._unreadable(key, rows, part.file, timestamps, error) from error

    def _decode_nearest(self, file: Path, timestamps: list[float], backend: str) -> Tensor:
        """Decodes the frames that are nearest to the given seconds of a video."""

        def decode(backend: str) -> Tensor:
            return decode_video_frames(file, timestamps, self.tolerance_s, backend, return_uint8=True)

        if backend != "torchcodec":
            return decode(backend)
        try:
            return decode("torchcodec")
        except (IndexError, FrameTimestampError):
            # There, LeRobot computes a frame's index from the average rate, and so misses the nearest frame at the end
            # of a file, or where the rate varies; with PyAV, it looks for it.
            return decode("pyav")

    def _decode_image(self, key: str, row: int) -> Tensor:
        """Decodes an image of the table: (C, H, W) uint8."""
        try:
            image = self._image_feature.decode_example(self._table.data.column(key)[row].as_py())
            return _to_tensor(np.asarray(image))
        except DECODING_ERRORS as error:
            raise self._unreadable(key, [row], None, [], error) from error

    def _unreadable(
        self, key: str, rows: list[int], file: Path | None, timestamps: list[float], error: Exception
    ) -> UnreadableFrameError:
        """The error for frames of one episode that cannot be decoded."""
        episode, first = self.place(rows[0])
        return unreadable(
            error,
            name=self._name,
            key=key,
            episode=episode,
            frames=(first, first + rows[-1] - rows[0]),
            file=file,
            timestamps=timestamps,
            root=self._root,
            half_frame_s=0.5 / self._meta.fps,
            tolerance_s=self.tolerance_s,
        )


def to_array(chunk: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Rows of a numeric column: (n, D); missing values are NaN."""
    if isinstance(chunk, pa.ChunkedArray):
        return np.concatenate([to_array(part) for part in chunk.chunks])
    if not chunk.type.num_fields:
        return chunk.to_numpy(zero_copy_only=False).reshape(len(chunk), -1)
    if chunk.null_count:  # `flatten` would leave these rows out
        width = chunk.type.list_size
        rows = [[np.nan] * width if row is None else row for row in chunk.to_pylist()]
        return np.array(rows, dtype=np.float64)
    return chunk.flatten().to_numpy(zero_copy_only=False).reshape(len(chunk), -1)


def _to_tensor(image: np.ndarray) -> Tensor:
    """(H, W, C) -> (C, H, W)."""
    # Copied, as PIL hands out read-only memory.
    return torch.from_numpy(image.transpose(2, 0, 1).copy())
