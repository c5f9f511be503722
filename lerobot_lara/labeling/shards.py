"""Labels the episodes of one shard and writes its file, as a whole or not at all.

Legend: N rows, R versions of each frame, L latent-action tokens, C latent width.
"""

import json
import logging
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from lerobot_lara.data.latent_labels.fingerprint import frame_files
from lerobot_lara.data.latent_labels.manifest import CODE_INDICES, LATENT_ACTION, NO_MOTION, SHIFT
from lerobot_lara.data.mixture.reader import ColumnReader
from lerobot_lara.data.mixture.samples import fit_image
from lerobot_lara.data.mixture.sources import Source
from lerobot_lara.data.mixture.unreadable import UnreadableFrameError
from lerobot_lara.data.tables import read_schema
from lerobot_lara.files.atomic import replaced_file
from lerobot_lara.labeling.engine import EpisodeLabels, computing_in, label_episode
from lerobot_lara.labeling.plan import LabelPlan, load_lam

logger = logging.getLogger(__name__)

# Entry of a file's metadata: the plan that it is of, and the episodes that could not be read.
RECORD = b"lerobot_lara"


def label_shard(folder: Path, shard: int) -> int:
    """Labels a shard, unless its file is there already.

    Args:
        folder: Folder of the labels, which holds the plan.
        shard: Number of the shard.

    Returns:
        Number of its frames.

    Raises:
        ValueError: The latent action model puts out values that are not finite, or too large for float16.
    """
    plan, source, reader = _opened(folder)
    if shard_record(folder, plan, shard) is None:
        lam = load_lam(plan.lam, plan.manifest.frame_gap, plan.options.device)
        first, last = plan.shards[shard]
        columns: dict[str, list[np.ndarray]] = {}
        errors: list[dict[str, Any]] = []
        for position in range(first, last):
            episode, length = plan.episodes[position], int(reader.lengths[position])
            shifts = plan.shifts(episode)
            try:
                with computing_in(plan.options.precision, next(lam.parameters()).device):
                    labels = label_episode(
                        lam,
                        frame_windows(plan, reader, position),
                        length=length,
                        shifts=shifts,
                        no_motion=plan.options.no_motion,
                    )
            except UnreadableFrameError as error:
                logger.warning("%s", error)
                errors.append({"episode": episode, "error": str(error)})
                labels = EpisodeLabels.invalid(lam, length, len(shifts), no_motion=plan.options.no_motion)
            for name, values in _columns(plan, reader, position, labels, shifts).items():
                columns.setdefault(name, []).append(values)
        write_shard(
            folder / plan.file(shard),
            {name: np.concatenate(parts) for name, parts in columns.items()},
            {"plan": plan.digest, "frames": _frames_of(plan, source, shard), "errors": errors},
        )
    return sum(int(reader.lengths[position]) for position in range(*plan.shards[shard]))


def shard_record(folder: Path, plan: LabelPlan, shard: int) -> dict[str, Any] | None:
    """What the file of a shard says of itself.

    Returns:
        None if it is missing or damaged, of another plan or of other frames, or has errors to try again.
    """
    file = folder / plan.file(shard)
    try:
        record = read_record(file) if file.is_file() else None
    except ValueError:
        return None
    if record is None or record["plan"] != plan.digest or record["errors"]:
        return None
    now = plan.manifest.dataset["files"]
    return record if all(now.get(name) == was for name, was in record["frames"].items()) else None


def read_record(file: Path) -> dict[str, Any]:
    """The plan's fingerprint, the files of frames and the errors that a file of labels was written with.

    Raises:
        ValueError: The file is damaged, or no file of labels.
    """
    record = (read_schema(file).metadata or {}).get(RECORD)
    if record is None:
        raise ValueError(f"{file} is no file of latent labels. Choose another folder.")
    return json.loads(record)


def write_shard(file: Path, columns: dict[str, np.ndarray], record: dict[str, Any]) -> None:
    """Writes a file of labels.

    Args:
        file: The file; its folder is created.
        columns: (N,) or (N, width) values; a width makes lists of a fixed size.
        record: What it says of itself.
    """
    arrays = {}
    for name, values in columns.items():
        array = pa.array(values.reshape(-1))
        arrays[name] = (
            array if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(array, values.shape[1])
        )
    table = pa.table(arrays).replace_schema_metadata({RECORD: json.dumps(record)})
    file.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(file) as partial:
        pq.write_table(table, partial)


@lru_cache(maxsize=1)
def _opened(folder: Path) -> tuple[LabelPlan, Source, ColumnReader]:
    """The plan and the dataset, opened once per process."""
    plan = LabelPlan.read(folder)
    return plan, plan.open_source(), plan.open_reader()


def _frames_of(plan: LabelPlan, source: Source, shard: int) -> dict[str, int | str]:
    """What tells the files that hold the frames of a shard from others."""
    return frame_files(source.meta, plan.manifest.camera, plan.episodes[slice(*plan.shards[shard])])


def forget() -> None:
    """Closes the dataset and the latent action model that this process has opened."""
    _opened.cache_clear()
    load_lam.cache_clear()


def frame_windows(plan: LabelPlan, reader: ColumnReader, position: int) -> Iterator[Tensor]:
    """The frames (n, 3, H, W) uint8 of an episode, in order."""
    start, length = int(reader.starts[position]), int(reader.lengths[position])
    height, width = plan.manifest.frame_size
    for first in range(start, start + length, plan.options.window):
        rows = range(first, min(first + plan.options.window, start + length))
        images = reader.images(plan.manifest.camera, plan.episodes[position], rows)
        yield fit_image(images, (height, width))


def _columns(
    plan: LabelPlan, reader: ColumnReader, position: int, labels: EpisodeLabels, shifts: np.ndarray
) -> dict[str, np.ndarray]:
    """The rows of an episode, as they are stored."""
    length = len(labels.valid)
    rows = range(int(reader.starts[position]), int(reader.starts[position]) + length)
    columns = {
        "index": reader.numbers("index", rows)[:, 0].astype(np.int64),
        "episode_index": np.full(length, plan.episodes[position], np.int64),
        "frame_index": np.arange(length, dtype=np.int64),
        "valid": labels.valid,
        LATENT_ACTION: _as_dtype(labels.latent_action, plan.options.dtype),
    }
    if labels.code_indices is not None:
        codes = labels.code_indices.reshape(length, -1)
        # Finite scalar quantization may have more codes than 16 bits hold.
        few = (plan.manifest.codebook_size or 0) <= np.iinfo(np.int16).max + 1
        columns[CODE_INDICES] = codes.astype(np.int16 if few else np.int32)
    if labels.no_motion is not None:
        columns[NO_MOTION] = _as_dtype(labels.no_motion, plan.options.dtype)
    if len(shifts) > 1:
        columns[SHIFT] = np.tile(shifts.reshape(1, -1).astype(np.int16), (length, 1))
    return columns


def _as_dtype(values: np.ndarray, dtype: str) -> np.ndarray:
    """(N, R, width) -> (N, R * width) of a dtype."""
    with np.errstate(over="ignore"):  # reported below
        stored = values.astype(dtype).reshape(len(values), -1)
    if not np.isfinite(stored).all():
        raise ValueError(
            f"`dtype` is {dtype!r}, which latent actions of up to {np.abs(values).max():.3g} exceed. Pass "
            "--dtype=float32."
        )
    return stored
