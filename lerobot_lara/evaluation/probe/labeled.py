"""Latent labels in place of a model: what `lara label` has stored, without the latent action model that made it.

Shapes: N pairs, D latent width, L latent-action tokens.
"""

import logging
from pathlib import Path

import numpy as np
import torch
from lerobot.datasets import LeRobotDatasetMetadata

from lerobot_lara.backbones.images import resize
from lerobot_lara.data.latent_labels.fingerprint import find_difference
from lerobot_lara.data.latent_labels.labels import LatentLabels
from lerobot_lara.data.latent_labels.manifest import MANIFEST
from lerobot_lara.evaluation.probe.data import MIN_EPISODES, Pairs
from lerobot_lara.evaluation.probe.encoding import THUMBNAIL_SIZE, Encoded
from lerobot_lara.evaluation.probe.model import Latents
from lerobot_lara.files.user_path import user_path

logger = logging.getLogger(__name__)

# Side in pixels at which frames are read; they are only shown, and made small.
SHOWN_SIZE = 128


def is_labels(path: str) -> bool:
    """Whether a path is a folder of finished labels."""
    folder: Path = user_path(path)
    return (folder / MANIFEST).is_file()


class LabeledLatents:
    """The latent actions of a dataset that was labeled.

    Args:
        path: Folder of the labels.

    Raises:
        ValueError: There are no finished labels, or they are damaged.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.labels = LatentLabels(path)
        manifest = self.labels.manifest
        self.frame_gap = manifest.frame_gap
        self.image_size = min(max(manifest.frame_size), SHOWN_SIZE)
        self.codebook_size = manifest.codebook_size
        self.camera = manifest.camera

    def check_dataset(self, meta: LeRobotDatasetMetadata, name: str, *, camera: str | None) -> None:
        """Refuses another dataset or camera than those that were labeled.

        Raises:
            ValueError: It is another one, or was changed.
        """
        manifest = self.labels.manifest
        if camera not in (None, manifest.camera):
            raise ValueError(
                f"`camera` is {camera!r}; it must be {manifest.camera!r}, of which the labels in {self.path} are. "
                "Leave --camera out."
            )
        labeled = manifest.dataset["episodes"]
        episodes = range(meta.total_episodes) if labeled is None else labeled
        difference = find_difference(meta, manifest.dataset, manifest.camera, episodes)
        if difference is not None:
            raise ValueError(
                f"The labels in {self.path} are not of {name} as it is now: {difference}. Pass the dataset that was "
                "labeled as --dataset, or label this one."
            )

    def labeled(self, pairs: Pairs) -> Pairs:
        """Those of the pairs that have a label; frames that could not be read, and unlabeled episodes, have none.

        Raises:
            ValueError: Fewer than `data.MIN_EPISODES` episodes are left.
        """
        known = np.flatnonzero(self._rows(pairs) >= 0)
        if len(known) < len(pairs):
            logger.warning(
                "%s: %d of %d pairs have no label and are left out.",
                self.path,
                len(pairs) - len(known),
                len(pairs),
            )
        episodes = len(np.unique(pairs.episodes[known]))
        if episodes < MIN_EPISODES:
            raise ValueError(
                f"{self.path} has labels in {episodes} of the episodes; it must have them in at least {MIN_EPISODES}, "
                "some of which are held out. Label more episodes."
            )
        return pairs.subset(known)

    def encoded(self, pairs: Pairs) -> Encoded:
        """The labels of pairs that have one, without shifts; thumbnails stand in for the features of a model."""
        rows, labels = self._rows(pairs).tolist(), self.labels
        latents = torch.from_numpy(np.stack([labels.latent_action(row) for row in rows]))
        codes = None
        if self.codebook_size is not None:
            codes = torch.from_numpy(np.stack([labels.code_indices(row) for row in rows]))
        no_motion = None
        if labels.manifest.no_motion:
            no_motion = np.stack([labels.no_motion(row) for row in rows])
        pictures = resize(pairs.frames.flatten(0, 1).float() / 255, THUMBNAIL_SIZE).flatten(1)
        pictures = pictures.unflatten(0, (-1, 2)).numpy()  # (N, 2, 3 * THUMBNAIL_SIZE**2)
        return Encoded(
            latents=Latents(latents, latents, codes),
            features=pictures,
            observation=pictures[:, 0],
            no_motion=no_motion,
        )

    def _rows(self, pairs: Pairs) -> np.ndarray:
        """(N,) rows of the labels, -1 for pairs without one."""
        starts = np.concatenate([[0], np.cumsum(self.labels.manifest.dataset["episode_lengths"])])
        index = starts[pairs.episodes] + pairs.starts
        rows = np.minimum(np.searchsorted(self.labels.index, index), len(self.labels) - 1)
        return np.where((self.labels.index[rows] == index) & self.labels.valid[rows], rows, -1)
