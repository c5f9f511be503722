"""Confidence intervals for statistics computed from sums over pairs, by resampling episodes.

Pairs from the same episode resemble one another, so whole episodes are resampled. All estimates of one
`EpisodeBootstrap`, or of several with the same episodes and seed, share their resamples: differences are paired.

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
        value: The number over all pairs.
        draws: (R,) the number over each resample of the episodes.
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
        """Whether the number is finite; a displacement relative to constant latents is not."""
        return bool(np.isfinite(self.value))

    def __sub__(self, other: "Estimate") -> "Estimate":
        with np.errstate(invalid="ignore"):  # infinity minus infinity, where latents are constant
            return Estimate(self.value - other.value, self.draws - other.draws)

    def maximum(self, other: "Estimate") -> "Estimate":
        """The larger of two numbers, within each resample."""
        return Estimate(max(self.value, other.value), np.maximum(self.draws, other.draws))

    def json(self) -> dict[str, float | None]:
        """Value and 95 % interval, with None for numbers that are not finite, which JSON cannot represent."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        return {name: number if np.isfinite(number) else None for name, number in numbers.items()}

    def _quantile(self, share: float) -> float:
        return float(np.quantile(self.draws, share)) if np.isfinite(self.draws).all() else float("nan")


class EpisodeBootstrap:
    """Resamples episodes with replacement.

    Args:
        episodes: (N,) episode of each pair.
        seed: Seed for the resampling.
    """

    def __init__(self, episodes: np.ndarray, *, seed: int) -> None:
        names, self._members = np.unique(episodes, return_inverse=True)
        num_episodes = self._num_episodes = len(names)
        draws = np.random.default_rng(seed).multinomial(
            num_episodes, np.full(num_episodes, 1 / num_episodes), size=NUM_RESAMPLES
        )
        # The first row is the data without resampling.
        self._weights: np.ndarray = np.vstack([np.ones(num_episodes), draws])  # (1 + R, E)

    def __call__(self, statistic: Callable[..., np.ndarray], *per_pair: np.ndarray) -> Estimate:
        """Estimates a statistic of sums over pairs.

        Args:
            statistic: Receives the sums (1 + R, ...) of each argument in `per_pair` and returns (1 + R,).
            per_pair: Arrays (N, ...) with the numbers of each pair.

        Returns:
            The statistic over all pairs, and over each resample.
        """
        sums = [np.einsum("re,e...->r...", self._weights, self._per_episode(values)) for values in per_pair]
        values = statistic(*sums)
        return Estimate(float(values[0]), np.asarray(values[1:], dtype=np.float64))

    def mean(self, values: np.ndarray, measured: np.ndarray | None = None) -> Estimate:
        """Estimates the mean over pairs.

        Args:
            values: (N,) numbers.
            measured: (N,) bool, which of them to include; None includes all.
        """
        counts = np.ones(len(values)) if measured is None else measured.astype(np.float64)
        # A resample may consist of episodes without any measured pair.
        return self(lambda total, n: total / np.maximum(n, 1), values * counts, counts)

    def psnr(self, squared_error: np.ndarray) -> Estimate:
        """Estimates the PSNR in dB from squared errors (N,); bounded at 100 dB, like `lam.metrics.psnr`."""
        mean = self.mean(squared_error)
        return Estimate(*(-10 * np.log10(np.maximum(part, 1e-10)) for part in (mean.value, mean.draws)))

    def _per_episode(self, values: np.ndarray) -> np.ndarray:
        sums = np.zeros((self._num_episodes, *values.shape[1:]))
        np.add.at(sums, self._members, values)
        return sums
