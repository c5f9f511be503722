"""A mixture of LeRobot datasets as one training set."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from lerobot_lara.data.mixture.metadata import MixtureMetadata
from lerobot_lara.data.mixture.samples import EntrySamples
from lerobot_lara.data.mixture.schedule import DrawSchedule
from lerobot_lara.data.mixture.unreadable import UnreadableFrameError

logger = logging.getLogger(__name__)

# Skipping stops a run with more than this share of broken frames, after the first few; counted in each worker.
MAX_SKIPPED_SHARE = 0.05
MAX_SKIPPED = 20


class MixtureDataset(Dataset):
    """Samples of several datasets, indexed by the draws of an epoch (see `DrawSchedule`).

    Args:
        entries: The datasets, cut into samples with the same keys and shapes.
        schedule: Maps a draw to a dataset and one of its frames.
        meta: Stand-in for LeRobot's metadata.
        skip_broken: Draw another frame of the same dataset in place of one that cannot be decoded.
    """

    # LeRobot's sampler asks for these; a mixture has already chosen its episodes.
    episodes = None
    absolute_to_relative_idx = None

    def __init__(
        self,
        entries: Sequence[EntrySamples],
        schedule: DrawSchedule,
        meta: MixtureMetadata,
        *,
        skip_broken: bool = False,
    ) -> None:
        self.entries = list(entries)
        self.schedule = schedule
        self.meta = meta
        self._skip_broken = skip_broken
        self._read = self._skipped = 0
        self.repo_id = meta.repo_id
        self._episode_offsets = np.cumsum([0] + [len(entry.reader.episodes) for entry in self.entries])
        self._task_index = {task: index for index, task in enumerate(meta.tasks.index)}

    def __len__(self) -> int:
        """Number of draws in an epoch."""
        return len(self.schedule)

    @property
    def num_frames(self) -> int:
        """Number of draws in an epoch, by which LeRobot counts epochs."""
        return len(self)

    @property
    def num_episodes(self) -> int:
        """Number of episodes of all datasets."""
        return int(self._episode_offsets[-1])

    @property
    def features(self) -> dict[str, dict]:
        """Features of the samples."""
        return self.meta.features

    def __getitem__(self, draw: int) -> dict[str, Any]:
        """The sample of a draw, with LeRobot's indices of episode and task.

        Raises:
            UnreadableFrameError: It cannot be decoded, and is not to be skipped or too many were.
        """
        number, frame = self.schedule[int(draw)]
        entry = self.entries[number]
        self._read += 1
        try:
            sample = entry[frame]
        except UnreadableFrameError as error:
            if not self._skip_broken:
                raise
            frame, sample = self._another(entry, frame, error)
        position, _ = entry.locate(frame)
        sample["episode_index"] = torch.tensor(int(self._episode_offsets[number]) + position)
        sample["task_index"] = torch.tensor(self._task_index[sample["task"]])
        sample["index"] = torch.tensor(int(draw))
        return sample

    def _another(
        self, entry: EntrySamples, frame: int, error: UnreadableFrameError
    ) -> tuple[int, dict[str, Any]]:
        """A frame in place of a broken one: chosen by its number, so that a run can be repeated."""
        random = np.random.default_rng(frame)
        while True:
            self._skipped += 1
            logger.warning("Skipped (%d of %d frames so far): %s", self._skipped, self._read, error)
            if self._skipped > MAX_SKIPPED + MAX_SKIPPED_SHARE * self._read:
                raise UnreadableFrameError(
                    f"{self._skipped} of the {self._read} frames that were read cannot be decoded, which is too many "
                    f"to skip. The last: {error}"
                ) from error
            other = int(random.integers(len(entry)))
            self._read += 1
            try:
                return other, entry[other]
            except UnreadableFrameError as again:
                error = again
