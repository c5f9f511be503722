"""States and actions of one dataset in the units of another.

A policy has one set of statistics, those of the robot that it acts for (the target). Every dataset is normalized by
its own statistics and written in the target's units, so that LeRobot's normalizer step, which knows the target's
only, undoes the second half; for the target itself nothing changes.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lerobot.configs import NormalizationMode

logger = logging.getLogger(__name__)

Stats = dict[str, np.ndarray]

# Middle and half-width of what each mode maps to [-1, 1].
RANGES = {
    NormalizationMode.MIN_MAX: ("min", "max"),
    NormalizationMode.QUANTILES: ("q01", "q99"),
    NormalizationMode.QUANTILE10: ("q10", "q90"),
}
MIRRORED = {"min": "max", "q01": "q99", "q10": "q90", "q50": "q50", "mean": "mean"}


def select_stats(stats: dict[str, Any], dims: Sequence[int] | None, invert: Sequence[int] | None) -> Stats:
    """Statistics of a column after `VectorMap`'s `dims` and `invert`.

    Args:
        stats: LeRobot's statistics of one feature: name -> (D,), and "count".
        dims: Dimensions to take; None is all.
        invert: Dimensions of the column that are mirrored about the middle of their range.
    """
    arrays: Stats = {name: np.asarray(value, dtype=np.float64).reshape(-1) for name, value in stats.items()}
    selected: Stats = dict(arrays)
    if invert:
        both = arrays["min"] + arrays["max"]
        pairs = MIRRORED | {high: low for low, high in MIRRORED.items()}
        for name, other in pairs.items():
            if other in arrays and name in arrays:
                selected[name] = arrays[name].copy()
                selected[name][invert] = (both - arrays[other])[invert]
    if dims is not None:
        selected = {name: value if name == "count" else value[list(dims)] for name, value in selected.items()}
    return selected


@dataclass(frozen=True)
class UnitConversion:
    """x -> x * scale + offset for (..., D) arrays; the first `target_dim` columns are in the target's units.

    Columns beyond the target's are normalized outright. Columns that the target has and the dataset lacks are at
    the middle of the target's range: 0 once normalized.
    """

    scale: np.ndarray
    offset: np.ndarray
    fill: np.ndarray

    def __call__(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(..., D) -> what the target has (..., target_dim) and the extra dimensions (..., max(0, D - target_dim))."""
        converted = values * self.scale + self.offset
        target_dim = len(self.fill)
        known = converted[..., :target_dim]
        missing = self.fill[known.shape[-1] :]
        filled = np.broadcast_to(missing, (*known.shape[:-1], len(missing)))
        return (
            np.concatenate([known, filled], axis=-1).astype(np.float32),
            converted[..., target_dim:].astype(np.float32),
        )


def unit_conversion(own: Stats, target: Stats, mode: NormalizationMode, label: str) -> UnitConversion:
    """Conversion from a dataset's units to the target's.

    Args:
        own: Statistics of the dataset's column, after `select_stats`.
        target: Statistics of the target's column.
        mode: The policy's normalization of this feature.
        label: Names the column in errors.

    Raises:
        ValueError: Statistics that `mode` needs are missing.
    """
    own_middle, own_width = _middle_and_width(own, mode, label)
    target_middle, target_width = _middle_and_width(target, mode, label)
    common = min(len(own_middle), len(target_middle))
    same = np.array_equal(own_middle[:common], target_middle[:common]) and np.array_equal(
        own_width[:common], target_width[:common]
    )
    # A dimension that never moves carries nothing: the middle of the target's range.
    scale = np.divide(1.0, own_width, out=np.zeros_like(own_width), where=own_width > 0)
    offset = -own_middle * scale
    lost = [dim for dim in range(common) if target_width[dim] == 0 and own_width[dim] > 0]
    if lost:
        logger.warning(
            "%s: dimensions %s never move in the target, and are held still here too.", label, lost
        )
    scale[:common] *= target_width[:common]
    offset[:common] = offset[:common] * target_width[:common] + target_middle[:common]
    if same:  # without this, rounding would move the target's own values
        scale[:common], offset[:common] = 1, 0
    return UnitConversion(scale, offset, target_middle)


def _middle_and_width(stats: Stats, mode: NormalizationMode, label: str) -> tuple[np.ndarray, np.ndarray]:
    if mode is NormalizationMode.IDENTITY:
        size = len(next(value for name, value in stats.items() if name != "count"))
        return np.zeros(size), np.ones(size)
    needed = ("mean", "std") if mode is NormalizationMode.MEAN_STD else RANGES[mode]
    lacking = [name for name in needed if name not in stats]
    if lacking:
        raise ValueError(
            f"{label} has no statistics {lacking}, which the normalization {mode.value} needs; it has {sorted(stats)}. "
            "Add them with LeRobot's augment_dataset_quantile_stats.py, or set another normalization_mapping."
        )
    first, second = stats[needed[0]].astype(np.float64), stats[needed[1]].astype(np.float64)
    if mode is NormalizationMode.MEAN_STD:
        return first, second.copy()
    return (first + second) / 2, (second - first) / 2
