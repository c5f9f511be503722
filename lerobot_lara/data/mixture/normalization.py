"""States and actions of one dataset in the units of another.

A policy has one set of statistics: those of the reference dataset, whose robot it acts for. Every dataset is
normalized by its own statistics and then written in the reference dataset's units. LeRobot's normalizer step, which
knows only the reference dataset's statistics, undoes the second half. For the reference dataset itself, nothing
changes.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lerobot.configs import NormalizationMode

logger = logging.getLogger(__name__)

Stats = dict[str, np.ndarray]

# Statistics at the ends of the range that each mode maps to [-1, 1].
RANGES = {
    NormalizationMode.MIN_MAX: ("min", "max"),
    NormalizationMode.QUANTILES: ("q01", "q99"),
    NormalizationMode.QUANTILE10: ("q10", "q90"),
}
# Statistic -> the one that takes its place when values are mirrored; both ways.
MIRRORED = {"min": "max", "q01": "q99", "q10": "q90", "q50": "q50", "mean": "mean"}


def select_stats(stats: dict[str, Any], dims: Sequence[int] | None, invert: Sequence[int] | None) -> Stats:
    """Computes the statistics of a column after `dims` and `invert` of a `VectorMap`.

    Args:
        stats: LeRobot's statistics of one feature: name -> (D,), and "count".
        dims: Dimensions to take, in this order; None takes all.
        invert: Dimensions of the column that are mirrored about the middle of their range.

    Returns:
        Name -> (len(dims),) float64, and "count".
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
    """Converts vectors of a dataset: x -> x * scale + offset.

    Dimensions that the reference dataset has too come out in its units. Extra dimensions come out normalized.
    Dimensions that only the reference dataset has are filled with the middle of their range there, which is 0 once
    normalized.

    Args:
        scale: (D,) factor.
        offset: (D,) summand.
        fill: (R,) middle of the reference dataset's range in each of its R dimensions.
    """

    scale: np.ndarray
    offset: np.ndarray
    fill: np.ndarray

    def __call__(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Converts (..., D) vectors.

        Returns:
            The reference dataset's dimensions (..., R), and the extra dimensions (..., max(0, D - R)), both float32.
        """
        converted = values * self.scale + self.offset
        reference_dim = len(self.fill)
        known = converted[..., :reference_dim]
        missing = self.fill[known.shape[-1] :]
        filled = np.broadcast_to(missing, (*known.shape[:-1], len(missing)))
        return (
            np.concatenate([known, filled], axis=-1).astype(np.float32),
            converted[..., reference_dim:].astype(np.float32),
        )


def unit_conversion(own: Stats, reference: Stats, mode: NormalizationMode, label: str) -> UnitConversion:
    """Makes the conversion from a dataset's units to the reference dataset's.

    Args:
        own: Statistics of the dataset's column, after `select_stats`.
        reference: Statistics of the reference dataset's column.
        mode: The policy's normalization of this feature.
        label: Name of the column in errors.

    Raises:
        ValueError: Statistics that `mode` needs are missing.
    """
    own_middle, own_width = _middle_and_width(own, mode, label)
    reference_middle, reference_width = _middle_and_width(reference, mode, label)
    common = min(len(own_middle), len(reference_middle))
    same = np.array_equal(own_middle[:common], reference_middle[:common]) and np.array_equal(
        own_width[:common], reference_width[:common]
    )
    # A dimension that never moves says nothing, and becomes the middle of the reference dataset's range.
    scale = np.divide(1.0, own_width, out=np.zeros_like(own_width), where=own_width > 0)
    offset = -own_middle * scale
    lost = [dim for dim in range(common) if reference_width[dim] == 0 and own_width[dim] > 0]
    if lost:
        logger.warning(
            "%s: dimensions %s never move in the reference dataset, so they are held constant here too.",
            label,
            lost,
        )
    scale[:common] *= reference_width[:common]
    offset[:common] = offset[:common] * reference_width[:common] + reference_middle[:common]
    if same:  # otherwise rounding would change the reference dataset's own values
        scale[:common], offset[:common] = 1, 0
    return UnitConversion(scale, offset, reference_middle)


def _middle_and_width(stats: Stats, mode: NormalizationMode, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Middle and half-width of what a mode maps to [-1, 1]; mean and standard deviation for MEAN_STD."""
    if mode is NormalizationMode.IDENTITY:
        size = len(next(value for name, value in stats.items() if name != "count"))
        return np.zeros(size), np.ones(size)
    needed = ("mean", "std") if mode is NormalizationMode.MEAN_STD else RANGES[mode]
    lacking = [name for name in needed if name not in stats]
    if lacking:
        raise ValueError(
            f"{label} has the statistics {sorted(stats)}; it must also have {lacking}, which the normalization "
            f"{mode.value} needs. Add them with LeRobot's augment_dataset_quantile_stats.py, or set another "
            "`normalization_mapping`."
        )
    first, second = stats[needed[0]].astype(np.float64), stats[needed[1]].astype(np.float64)
    if mode is NormalizationMode.MEAN_STD:
        return first, second.copy()
    return (first + second) / 2, (second - first) / 2
