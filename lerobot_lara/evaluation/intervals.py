"""Uncertainty of what is measured on few episodes or with few seeds."""

from collections.abc import Iterable

import numpy as np
from scipy.stats import binomtest, fisher_exact, t


def wilson_interval(successes: int, episodes: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a success rate.

    Unlike the normal approximation, it stays within [0, 1], and its width is not zero when no episode or every episode
    succeeds, which is common in small evaluations.

    Args:
        successes: Number of successful episodes, from 0 to `episodes`.
        episodes: Number of independent episodes, at least 1.
        confidence: Coverage in (0, 1).

    Returns:
        Lower and upper bound, each in [0, 1].

    Raises:
        ValueError: If there are no episodes, or `successes` is out of range.
    """
    if episodes < 1:
        raise ValueError(f"`episodes` is {episodes}; it must be at least 1. Evaluate at least one episode.")
    if not 0 <= successes <= episodes:
        raise ValueError(
            f"`successes` is {successes}; it must be from 0 to {episodes}, the number of episodes. Count again."
        )
    interval = binomtest(successes, episodes).proportion_ci(confidence_level=confidence, method="wilson")
    return float(interval.low), float(interval.high)


def difference_p_value(first: tuple[int, int], second: tuple[int, int]) -> float:
    """Two-sided p-value of Fisher's exact test for two success counts.

    Args:
        first: (successes, episodes) of one arm.
        second: (successes, episodes) of the other arm.

    Returns:
        Probability in [0, 1] of counts at least as different as these if both arms had the same success rate.
    """
    table = [[successes, episodes - successes] for successes, episodes in (first, second)]
    return float(fisher_exact(table).pvalue)


def student_interval(values: Iterable[float], *, confidence: float = 0.95) -> tuple[float, float, float]:
    """Student's interval of a mean, from few values such as one per seed.

    Args:
        values: At least one.
        confidence: Coverage in (0, 1).

    Returns:
        Mean, lower and upper bound; bounds of fewer than two values are NaN.
    """
    numbers = np.array(list(values))
    mean = float(numbers.mean())
    if len(numbers) < 2:
        return mean, float("nan"), float("nan")
    half = t.ppf((1 + confidence) / 2, len(numbers) - 1) * numbers.std(ddof=1) / np.sqrt(len(numbers))
    return mean, float(mean - half), float(mean + half)
