"""Adds latent labels to the samples of a dataset, after checking that they are of this dataset and this policy.

Legend: B batch, L latent-action tokens, C latent width, K frame gap, T latent steps.
"""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from torch import Tensor

from lerobot_lara.batch.keys import (
    LATENT_ACTION,
    LATENT_ACTION_IS_PAD,
    LATENT_CODES,
    LATENT_CODES_IS_PAD,
    LATENT_SHIFT,
)
from lerobot_lara.batch.label_request import LabelRequest
from lerobot_lara.data.latent_labels.fingerprint import episode_lengths, find_difference
from lerobot_lara.data.latent_labels.labels import LatentLabels
from lerobot_lara.data.latent_labels.manifest import LabelManifest

logger = logging.getLogger(__name__)


class LabelJoin:
    """What the labels add to the samples of one dataset.

    Args:
        labels: The labels.
        request: What the policy wants.
        training: Whether the policy augments these samples; a held-out sample gets the label of its unshifted frames.
    """

    def __init__(self, labels: LatentLabels, request: LabelRequest, *, training: bool) -> None:
        self.labels = labels
        self.request = request
        self.shifted = training and request.random_shift > 0

    def __call__(self, index: int, remaining: int) -> dict[str, Tensor]:
        """The labels of a sample.

        Args:
            index: Of its frame in the dataset.
            remaining: Frames from this one to the end of its episode, this one included.

        Returns:
            Codes (T, L) int64 with (T,) bool, True where there are none; or the latent action (L * C,) with () bool,
            and the shift (2,) int64 of the version that was drawn, in pixels (down, right).
        """
        if self.request.code_steps:
            return self._codes(index, remaining)
        row = int(self.labels.find(np.array([index]))[0])
        version = 0
        if self.shifted:
            version = 1 + int(torch.randint(self.labels.manifest.augmentations, ()))
        latent_action = self.labels.latent_action(row, version)
        if self.request.relative:
            latent_action = latent_action - self.labels.no_motion(row, version)
        sample = {
            LATENT_ACTION: torch.from_numpy(latent_action),
            LATENT_ACTION_IS_PAD: torch.tensor(not self.labels.valid[row]),
        }
        if self.shifted:
            sample[LATENT_SHIFT] = torch.from_numpy(self.labels.shift(row, version))
        return sample

    def _codes(self, index: int, remaining: int) -> dict[str, Tensor]:
        steps, gap = self.request.code_steps, self.labels.manifest.frame_gap
        codes = np.zeros((steps, self.labels.manifest.num_latent_tokens), np.int64)
        is_pad = np.ones(steps, bool)
        for step in range(steps):
            if step * gap >= remaining:
                break
            row = int(self.labels.find(np.array([index + step * gap]))[0])
            if self.labels.valid[row]:
                codes[step], is_pad[step] = self.labels.code_indices(row), False
        return {LATENT_CODES: torch.from_numpy(codes), LATENT_CODES_IS_PAD: torch.from_numpy(is_pad)}


def open_labels(
    path: str,
    meta: LeRobotDatasetMetadata,
    request: LabelRequest,
    *,
    camera: str,
    frame_size: Sequence[int],
    frame_gap: int,
    episodes: Sequence[int],
    name: str,
) -> LatentLabels:
    """Opens the labels of a dataset for a policy.

    Args:
        path: Folder of the labels.
        meta: Metadata of the dataset.
        request: What the policy wants.
        camera: Camera of the dataset that the latent action model looks at.
        frame_size: Height and width, in pixels, of the policy's images of that camera.
        frame_gap: K, in frames of the dataset.
        episodes: Numbers of the episodes in use.
        name: Name of the dataset in errors.

    Raises:
        ValueError: They are not finished, of another dataset, camera, frame gap or frame size, or lack rows, codes,
            latent actions of no motion or shifted versions.
    """
    labels = LatentLabels(path)
    manifest = labels.manifest
    again = f"Label {name} again: `lara label {manifest.lam['name']} {name} --out=<folder>`"
    difference = find_difference(meta, manifest.dataset, manifest.camera, episodes)
    if difference is not None:
        raise ValueError(
            f"The labels in {path} are not of {name} as it is now: {difference}. {again}. LeRobot's tools renumber the "
            "episodes that they keep; make labels after editing."
        )
    for field, found, wanted in (
        ("camera", manifest.camera, camera),
        ("frame_gap", manifest.frame_gap, frame_gap),
        ("frame_size", list(manifest.frame_size), list(frame_size)),
    ):
        if found != wanted:
            raise ValueError(
                f"The labels in {path} have `{field}` {found!r}; it must be {wanted!r}, as the policy and {name} have "
                f"it. {_remedy(field, again)}"
            )
    _check_request(manifest, request, path, again)
    starts = np.concatenate([[0], np.cumsum(episode_lengths(meta))])
    labels.find(np.concatenate([np.arange(starts[each], starts[each + 1]) for each in episodes]))
    if manifest.errors:
        logger.warning(
            "%s: %d episode(s) of %s could not be read when they were labeled; their frames have no latent action.",
            path,
            len(manifest.errors),
            name,
        )
    return labels


def _remedy(field: str, again: str) -> str:
    if field == "frame_gap":
        return f"Pass --policy.frame_gap, or set `frame_gap_s` in the mixture file. Or: {again[0].lower()}{again[1:]}."
    if field == "camera":
        return f"Pass --policy.lam_camera. Or: {again[0].lower()}{again[1:]} with --camera."
    return f"{again}; with the mixture file in place of the dataset, frames are cropped as the policy's."


def _check_request(manifest: LabelManifest, request: LabelRequest, path: str, again: str) -> None:
    """Whether the labels hold what the policy wants."""
    if request.code_steps and manifest.codebook_size is None:
        raise ValueError(
            f"The labels in {path} have no codes, as the latent action model {manifest.lam['name']} is continuous. "
            f"{again} with --codebook-size=32."
        )
    if request.relative and not manifest.no_motion:
        raise ValueError(
            f"`alignment_relative` is true, but the labels in {path} lack the latent actions of no motion. {again} "
            "with --no-motion."
        )
    if request.random_shift and not request.code_steps and request.random_shift != manifest.random_shift:
        raise ValueError(
            f"`random_shift` is {request.random_shift}, but the labels in {path} are of frames that were shifted by up "
            f"to {manifest.random_shift} pixels. Pass --policy.random_shift={manifest.random_shift}, or: "
            f"{again[0].lower()}{again[1:]} with --augmentations=4 --random-shift={request.random_shift}."
        )


def require_one_model(manifests: dict[str, LabelManifest], *, codes: bool) -> LabelManifest:
    """Makes sure that the labels of all datasets of a mixture come from one model.

    Args:
        manifests: By name of the entry, that of the reference dataset first if it has any.
        codes: Whether codes are wanted, which must then come from the same codebook too.

    Returns:
        The first.

    Raises:
        ValueError: They do not.
    """
    (first_name, first), *others = manifests.items()
    for name, other in others:
        if other.lam_sha256 != first.lam_sha256:
            raise ValueError(
                f"`labels` of the entries {first_name!r} and {name!r} are of different latent action models, "
                f"{first.lam['name']} ({first.lam_sha256[:12]}) and {other.lam['name']} ({other.lam_sha256[:12]}). "
                "Label both with one model."
            )
        if codes and other.tokenizer != first.tokenizer:
            raise ValueError(
                f"`labels` of the entries {first_name!r} and {name!r} have codes of different codebooks. Label the "
                f"second with --codebook=<labels of {first_name}>."
            )
    return first
