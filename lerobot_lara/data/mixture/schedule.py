"""Which frame of which dataset a draw stands for.

An epoch is a fixed list of draws, long enough for every frame of every dataset to be drawn at least once at the given
shares. LeRobot's own sampler shuffles the list for each epoch, by the seed and the epoch alone, and splits it over
processes; therefore LeRobot also resumes the order of a mixture exactly.
"""

from collections.abc import Sequence

import numpy as np

# LeRobot shuffles an epoch as one permutation of 8-byte numbers in every process, here of at most 4 GB.
MAX_DRAWS = 500_000_000


class DrawSchedule:
    """Maps each draw of an epoch to a dataset and one of its frames.

    Of a dataset with n frames and d >= n draws, every frame is drawn floor(d / n) or ceil(d / n) times in an epoch; the
    frames that are drawn once more than others are spread evenly.

    Args:
        num_frames: Usable frames of each dataset, at least 1.
        shares: Each dataset's share of the draws, above 0; the shares sum to 1.
        names: Names of the datasets, for errors.

    Raises:
        ValueError: An epoch would have more than `MAX_DRAWS` draws.
    """

    def __init__(self, num_frames: Sequence[int], shares: Sequence[float], names: Sequence[str]) -> None:
        frames, share = np.asarray(num_frames, dtype=np.int64), np.asarray(shares, dtype=np.float64)
        needed = frames / share
        # Slightly less, as rounding may lift a whole number of draws just above itself.
        total = float(needed.max()) * (1 - 1e-12)
        if total > MAX_DRAWS:
            slowest = names[int(needed.argmax())]
            raise ValueError(
                f"`weight` of entry {slowest!r} is too low for its {frames[int(needed.argmax())]} frames: an epoch "
                f"that draws each of them once would have {total:.2g} draws, more than {MAX_DRAWS:.0e}. Raise the "
                "weight, or use fewer `episodes`."
            )
        draws = np.maximum(frames, np.ceil(share * total).astype(np.int64))
        self._num_frames = frames
        self._draws = draws
        self._ends = np.cumsum(draws)

    def __len__(self) -> int:
        """Number of draws in an epoch."""
        return int(self._ends[-1])

    @property
    def draws(self) -> list[int]:
        """Number of draws of each dataset in an epoch."""
        return self._draws.tolist()

    def __getitem__(self, draw: int) -> tuple[int, int]:
        """Looks up a draw.

        Args:
            draw: Number of the draw in the epoch, in [0, len(self)).

        Returns:
            Index of the dataset, and index of one of its usable frames.

        Raises:
            IndexError: There is no such draw.
        """
        if not 0 <= draw < len(self):
            raise IndexError(f"Draw {draw} is outside an epoch, which has draws 0 to {len(self) - 1}.")
        dataset = int(np.searchsorted(self._ends, draw, side="right"))
        within = draw - int(self._ends[dataset] - self._draws[dataset])
        return dataset, within * int(self._num_frames[dataset]) // int(self._draws[dataset])


def sample_shares(weights: Sequence[float], num_frames: Sequence[int], mode: str) -> list[float]:
    """Computes each entry's share of the samples.

    Args:
        weights: Weight of each entry, at least 0.
        num_frames: Usable frames of each entry; not used for "share".
        mode: "share", or "per_frame" to multiply the weights by the frames first.

    Returns:
        The shares, which sum to 1.
    """
    scaled = np.asarray(weights, dtype=np.float64)
    if mode == "per_frame":
        scaled = scaled * np.asarray(num_frames, dtype=np.float64)
    return (scaled / scaled.sum()).tolist()


def with_action_free_share(
    shares: Sequence[float], labeled: Sequence[bool], action_free: float
) -> list[float]:
    """Gives the entries without actions a share of the samples, and those with actions the rest.

    Args:
        shares: Share of each entry, which sum to 1.
        labeled: Whether each entry has actions.
        action_free: Share of all entries without actions together, in (0, 1).

    Returns:
        The shares, which sum to 1 and keep their proportions among entries of a kind.

    Raises:
        ValueError: All entries are of one kind.
    """
    share, has_actions = np.asarray(shares, dtype=np.float64), np.asarray(labeled, dtype=bool)
    if has_actions.all() or not has_actions.any():
        kind = "with actions" if has_actions.all() else "action-free"
        raise ValueError(
            f"`action_free_share` is {action_free}, but all entries in use are {kind}. Leave it out, or add an entry "
            "of the other kind."
        )
    totals = np.where(has_actions, share[has_actions].sum(), share[~has_actions].sum())
    return (share / totals * np.where(has_actions, 1 - action_free, action_free)).tolist()
