"""Which frame of which dataset a draw stands for.

An epoch is a fixed list of draws: as many as it takes until every frame of every dataset has been drawn at least
once at the given shares. LeRobot's own sampler shuffles it anew for every epoch (from seed and epoch alone) and
splits it over processes, so that its exact resumption holds for mixtures too.
"""

from collections.abc import Sequence

import numpy as np

# LeRobot shuffles an epoch as one permutation of 8-byte numbers, in every process: at most 4 GB.
MAX_DRAWS = 500_000_000


class DrawSchedule:
    """Draw -> (dataset, frame) for one epoch.

    A dataset with n frames and d >= n draws has every frame floor(d / n) or ceil(d / n) times in the epoch, the
    extra ones spread evenly.

    Args:
        num_frames: Usable frames of each dataset, at least 1.
        shares: Share of the draws of each dataset, above 0; they sum to 1.
        names: For errors.

    Raises:
        ValueError: An epoch would have more than `MAX_DRAWS` draws.
    """

    def __init__(self, num_frames: Sequence[int], shares: Sequence[float], names: Sequence[str]) -> None:
        frames, share = np.asarray(num_frames, dtype=np.int64), np.asarray(shares, dtype=np.float64)
        needed = frames / share
        # A hair below avoids one more draw for what is an integer but for rounding.
        total = float(needed.max()) * (1 - 1e-12)
        if total > MAX_DRAWS:
            slowest = names[int(needed.argmax())]
            raise ValueError(
                f"`weight` of entry {slowest!r} is too low for its {frames[int(needed.argmax())]} frames: an epoch, in "
                f"which each is drawn once, would have {total:.2g} draws (at most {MAX_DRAWS:.0e}). Raise the weight, "
                "or take fewer `episodes`."
            )
        draws = np.maximum(frames, np.ceil(share * total).astype(np.int64))
        self._num_frames = frames
        self._draws = draws
        self._ends = np.cumsum(draws)

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def draws(self) -> list[int]:
        """Draws of each dataset in an epoch."""
        return self._draws.tolist()

    def __getitem__(self, draw: int) -> tuple[int, int]:
        """Args:
            draw: 0 to len - 1.

        Returns:
            Index of the dataset, and of one of its usable frames.
        """
        if not 0 <= draw < len(self):
            raise IndexError(f"Draw {draw} is outside an epoch of {len(self)}.")
        dataset = int(np.searchsorted(self._ends, draw, side="right"))
        within = draw - int(self._ends[dataset] - self._draws[dataset])
        return dataset, within * int(self._num_frames[dataset]) // int(self._draws[dataset])


def sample_shares(weights: Sequence[float], num_frames: Sequence[int], mode: str) -> list[float]:
    """Shares of the samples, summing to 1.

    Args:
        weights: Of the entries.
        num_frames: Usable frames of the entries.
        mode: "share", or "per_frame" to multiply the weights by the frames first.
    """
    scaled = np.asarray(weights, dtype=np.float64)
    if mode == "per_frame":
        scaled = scaled * np.asarray(num_frames, dtype=np.float64)
    return (scaled / scaled.sum()).tolist()
