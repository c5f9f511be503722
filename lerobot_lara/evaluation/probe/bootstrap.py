"""Confidence intervals of anything that is computed from sums over pairs, by resampling episodes.

Pairs of one episode resemble one another, so episodes are what is drawn. All estimates of one `EpisodeBootstrap`,
and of equal ones, share their draws: their differences are paired.

Shapes: N pairs, E episodes, R resamples.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 1000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number and its bootstrap distribution.

    Attributes:
        value: Over all pairs.
        draws: (R,) the same number over resampled episodes.
    """

    value: float
    draws: np.ndarray

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self._quantile((1 - CONFIDENCE) / 2)

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self._quantile((1 + CONFIDENCE) / 2)

    @property
    def finite(self) -> bool:
        """Whether the number exists: a displacement relative to constant latents does not."""
        return bool(np.isfinite(self.value))

    def __sub__(self, other: "Estimate") -> "Estimate":
        with np.errstate(invalid="ignore"):  # infinity minus infinity, where latents are constant
            return Estimate(self.value - other.value, self.draws - other.draws)

    def maximum(self, other: "Estimate") -> "Estimate":
        """The larger of two numbers, within each resample."""
        return Estimate(max(self.value, other.value), np.maximum(self.draws, other.draws))

    def json(self) -> dict[str, float | None]:
        """Value and 95 % interval; None stands for what is not finite, as JSON knows no infinity."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        return {name: number if np.isfinite(number) else None for name, number in numbers.items()}

    def _quantile(self, share: float) -> float:
        return float(np.quantile(self.draws, share)) if np.isfinite(self.draws).all() else float("nan")


class EpisodeBootstrap:
    """Resamples episodes with replacement.

    Args:
        episodes: (N,) episode of each pair.
        seed: Of the draws.
    """

    def __init__(self, episodes: np.ndarray, *, seed: int) -> None:
        names, self._members = np.unique(episodes, return_inverse=True)
        num_episodes = self._num_episodes = len(names)
        draws = np.random.default_rng(seed).multinomial(
            num_episodes, np.full(num_episodes, 1 / num_episodes), size=NUM_RESAMPLES
        )
        # The first row is the data as they are.
        self._weights: np.ndarray = np.vstack([np.ones(num_episodes), draws])  # (1 + R, E)

    def __call__(self, statistic: Callable[..., np.ndarray], *per_pair: np.ndarray) -> Estimate:
        """Estimates a statistic of sums.

        Args:
            statistic: Takes, for each of `per_pair`, its sums (1 + R, ...) and returns (1 + R,).
            per_pair: Numbers (N, ...) of each pair.
        """
        sums = [np.einsum("re,e...->r...", self._weights, self._per_episode(values)) for values in per_pair]
        values = statistic(*sums)
        return Estimate(float(values[0]), np.asarray(values[1:], dtype=np.float64))

    def mean(self, values: np.ndarray, measured: np.ndarray | None = None) -> Estimate:
        """Mean over pairs.

        Args:
            values: (N,) numbers.
            measured: (N,) bool, which of them count; None is all.
        """
        counts = np.ones(len(values)) if measured is None else measured.astype(np.float64)
        # An episode without a measured pair may be all that a resample holds.
        return self(lambda total, n: total / np.maximum(n, 1), values * counts, counts)

    def psnr(self, squared_error: np.ndarray) -> Estimate:
        """PSNR in dB of the mean of (N,) squared errors; at most 100 dB, that of an error of 0."""
        mean = self.mean(squared_error)
        return Estimate(*(-10 * np.log10(np.maximum(part, 1e-10)) for part in (mean.value, mean.draws)))

    def _per_episode(self, values: np.ndarray) -> np.ndarray:
        sums = np.zeros((self._num_episodes, *values.shape[1:]))
        np.add.at(sums, self._members, values)
        return sums
