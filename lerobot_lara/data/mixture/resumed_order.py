"""Lets a resumed training see the data and draw the random numbers that it would have, had it not been stopped.

LeRobot 0.6.1 does so within the first epoch only, and for the data only: accelerate tells the sampler to begin with
epoch 0, whatever the checkpoint says, and the data loader draws a number that an undisturbed training draws at the
beginning of an epoch.
"""

from collections.abc import Iterator
from pathlib import Path

from lerobot.configs.train import TrainPipelineConfig
from lerobot.datasets.sampler import EpisodeAwareSampler
from lerobot.utils.constants import TRAINING_STATE_DIR
from lerobot.utils.random_utils import load_rng_state


def resumed_sampler(cfg: TrainPipelineConfig) -> type[EpisodeAwareSampler]:
    """Returns the class of samplers for a training: LeRobot's own, unless a policy of this package is resumed.

    Random transforms of images differ from an undisturbed training, as they are drawn one batch ahead or by the
    processes that read the data; shifts and masks that a policy draws are the same.

    Args:
        cfg: Configuration of the training.
    """
    ours = any(each.__module__.startswith("lerobot_lara.") for each in type(cfg.policy).__mro__)
    if not cfg.resume or cfg.checkpoint_path is None or not ours:
        return EpisodeAwareSampler
    state_folder = Path(cfg.checkpoint_path) / TRAINING_STATE_DIR

    class ResumedSampler(EpisodeAwareSampler):
        """Counts epochs from that of the checkpoint, and puts the random state back when it begins within one."""

        first_epoch = 0

        def load_state_dict(self, state: dict) -> None:
            """Takes the epoch and the position in it."""
            super().load_state_dict(state)
            self.first_epoch = state["epoch"]

        def set_epoch(self, epoch: int) -> None:
            """Takes the number of epochs since the training was resumed, as accelerate counts them."""
            super().set_epoch(self.first_epoch + epoch)

        def _iter_epoch(self, epoch: int, start: int) -> Iterator[int]:
            if start > 0:
                load_rng_state(state_folder)
            yield from super()._iter_epoch(epoch, start)

    return ResumedSampler
