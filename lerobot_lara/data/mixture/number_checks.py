"""Checks the states and actions of a dataset, and their statistics, before anything is trained on them.

One value that is not finite makes every loss NaN, and one that is too large hides all others behind it.
"""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from lerobot.datasets.compute_stats import RunningQuantileStats

from lerobot_lara.data.mixture.reader import ColumnReader

logger = logging.getLogger(__name__)

# Above it, the square of a value, and so its loss, is infinite in float32.
LARGEST = float(np.sqrt(np.finfo(np.float32).max))
# How far a value may be outside of the range that the statistics give, as a share of that range.
RANGE_TOLERANCE = 0.01


def number_problems(reader: ColumnReader, columns: dict[str, list[int] | None]) -> list[str]:
    """Finds values that nothing can learn from: the first of each column.

    Args:
        reader: The episodes in use.
        columns: Column -> the dimensions in use; None is all of them.

    Returns:
        A sentence for each column with such a value, which names episode, frame and dimension.
    """
    found = (_first_bad_value(reader, key, dims) for key, dims in columns.items())
    return [sentence for sentence in found if sentence is not None]


def time_problems(reader: ColumnReader) -> list[str]:
    """Finds timestamps that do not grow within their episode, by which videos are decoded.

    Args:
        reader: The episodes in use.

    Returns:
        A sentence about the first of them, if there is one.
    """
    times = np.concatenate([values[:, 0] for _, values in reader.all_numbers("timestamp")] or [np.zeros(0)])
    steps = np.diff(times, prepend=-1.0)
    steps[reader.starts] = 1.0
    bad = np.flatnonzero(~(steps > 0) | ~np.isfinite(times))
    if not len(bad):
        return []
    episode, frame = reader.place(int(bad[0]))
    return [
        f"`timestamp` is {times[bad[0]]:g} in frame {frame} of episode {episode}; it must be more than that of the "
        f"frame before ({len(bad)} such frames). Leave these episodes out, or convert the dataset again."
    ]


def _first_bad_value(reader: ColumnReader, key: str, dims: list[int] | None) -> str | None:
    for first_row, values in _parts(reader, key, dims):
        with np.errstate(invalid="ignore"):
            bad = ~(np.abs(values) < LARGEST)  # NaN compares false
        if not bad.any():
            continue
        offset, column = np.argwhere(bad)[0]
        value, dim = values[offset, column], column if dims is None else dims[column]
        episode, frame = reader.place(first_row + int(offset))
        why = "overflows float32 when squared" if np.isfinite(value) else "is not finite"
        return (
            f"`{key}` is {value:g} in dimension {dim} of frame {frame} of episode {episode}, which {why} "
            f"({bad.any(axis=1).sum()} such frames nearby)."
        )
    return None


def usable_stats(
    reader: ColumnReader, key: str, stats: dict[str, Any] | None, *, name: str
) -> dict[str, Any]:
    """Returns the statistics of a column, computed from the table where meta/stats.json has none to use.

    Args:
        reader: The episodes to compute from.
        key: Column of vectors (D,) or scalars.
        stats: LeRobot's statistics of the column; None if it has none.
        name: Name of the dataset in the log.

    Returns:
        The given statistics, or new ones: name -> (D,), and "count".
    """
    ranges = [(values.min(axis=0), values.max(axis=0)) for _, values in _parts(reader, key, None)]
    low = np.min([each[0] for each in ranges], axis=0)
    high = np.max([each[1] for each in ranges], axis=0)
    fault = "are missing" if not stats else _fault(stats, low, high)
    if fault is None:
        assert stats is not None
        _warn_of_range(stats, low, high, f"{name!r}: the statistics of `{key}` in meta/stats.json")
        return stats
    logger.warning(
        "%r: the statistics of `%s` in meta/stats.json %s, so they are computed from the episodes in use.",
        name,
        key,
        fault,
    )
    return _computed(reader, key)


def _fault(stats: dict[str, Any], low: np.ndarray, high: np.ndarray) -> str | None:
    """What makes statistics useless for values between `low` and `high`, (D,) each; None if nothing does."""
    arrays = {
        name: np.asarray(value, dtype=np.float64).reshape(-1)
        for name, value in stats.items()
        if name != "count"
    }
    if not arrays:
        return "are missing"
    for name, values in arrays.items():
        if values.shape != low.shape:
            return f"have {len(values)} values of `{name}` for {len(low)} dimensions"
        if not np.isfinite(values).all():
            return f"have a `{name}` that is not finite"
    width = arrays.get("std", high - low)
    stuck = [dim for dim in range(len(low)) if width[dim] <= 0 and high[dim] > low[dim]]
    if stuck:
        return f"say that dimensions {stuck} never change, which do"
    return None


def _warn_of_range(stats: dict[str, Any], low: np.ndarray, high: np.ndarray, label: str) -> None:
    """Reports values outside of the range that the statistics give: the dataset was probably edited since."""
    if "min" not in stats or "max" not in stats:
        return
    least, most = (np.asarray(stats[name], dtype=np.float64).reshape(-1) for name in ("min", "max"))
    slack = RANGE_TOLERANCE * (most - least) + 1e-6
    outside = np.flatnonzero((low < least - slack) | (high > most + slack)).tolist()
    if outside:
        logger.warning(
            "%s do not cover all values of dimensions %s. Recompute them if the dataset was edited.",
            label,
            outside,
        )


def _computed(reader: ColumnReader, key: str) -> dict[str, Any]:
    running, count = RunningQuantileStats(), 0
    for _, values in _parts(reader, key, None):
        running.update(values.astype(np.float64))
        count += len(values)
    return running.get_statistics() | {"count": np.array([count])}


def _parts(reader: ColumnReader, key: str, dims: list[int] | None) -> Iterator[tuple[int, np.ndarray]]:
    """First row and (n, D) values of the parts of a column, booleans as numbers."""
    for row, values in reader.all_numbers(key):
        numbers = values.astype(np.float64) if values.dtype == bool else values
        yield row, numbers if dims is None else numbers[:, dims]
