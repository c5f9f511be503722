"""A mixture of LeRobot datasets as one training set."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from lerobot_lara.data.mixture.metadata import MixtureMetadata
from lerobot_lara.data.mixture.samples import EntrySamples
from lerobot_lara.data.mixture.schedule import DrawSchedule


class MixtureDataset(Dataset):
    """Samples of several datasets, indexed by the draws of an epoch (see `DrawSchedule`).

    Args:
        entries: The datasets, cut into samples with the same keys and shapes.
        schedule: Maps a draw to a dataset and one of its frames.
        meta: Stand-in for LeRobot's metadata.
    """

    # LeRobot's sampler asks for these; a mixture has already chosen its episodes.
    episodes = None
    absolute_to_relative_idx = None

    def __init__(
        self, entries: Sequence[EntrySamples], schedule: DrawSchedule, meta: MixtureMetadata
    ) -> None:
        self.entries = list(entries)
        self.schedule = schedule
        self.meta = meta
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
        """The sample of a draw, with LeRobot's indices of episode and task."""
        number, frame = self.schedule[int(draw)]
        entry = self.entries[number]
        sample = entry[frame]
        position, _ = entry.locate(frame)
        sample["episode_index"] = torch.tensor(int(self._episode_offsets[number]) + position)
        sample["task_index"] = torch.tensor(self._task_index[sample["task"]])
        sample["index"] = torch.tensor(int(draw))
        return sample
