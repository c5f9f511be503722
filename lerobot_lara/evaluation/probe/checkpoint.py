"""What `lara probe` is given: checkpoints and labels, opened."""

from dataclasses import dataclass
from pathlib import Path

import lerobot_lara  # noqa: F401  registers the policy types
from lerobot_lara.alignment.checkpoint_lam import GENERIC_PARTS, find_lam
from lerobot_lara.evaluation.probe.labeled import LabeledLatents, is_labels
from lerobot_lara.evaluation.probe.model import CheckpointModel, ProbedModel


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint, or labels.

    Attributes:
        path: Folder or Hub id, as passed by the user.
        label: Short name, unique within a report.
        type: Policy type, or "labels".
        camera: Dataset key of the camera that it was trained on; None if the checkpoint does not record it.
        model: Its latent action model, or the labels.
    """

    path: str
    label: str
    type: str
    camera: str | None
    model: ProbedModel | LabeledLatents


def open_checkpoints(paths: list[str], *, device: str) -> list[Checkpoint]:
    """Opens `lara_lam` checkpoints, the `lam/` of `lara` checkpoints, and labels.

    Args:
        paths: Folders or Hub ids; folders of labels.
        device: Device on which the models compute.

    Returns:
        The opened checkpoints, in the same order.

    Raises:
        ValueError: If one is missing, damaged, listed twice, or of a type without a latent action model; if their
            frame gaps differ; or if models and labels are mixed.
    """
    if len(set(paths)) < len(paths):
        raise ValueError(
            f"`checkpoints` lists the same checkpoint twice: {', '.join(paths)}. Pass each checkpoint once."
        )
    checkpoints = [_open(path, label, device) for path, label in zip(paths, short_labels(paths), strict=True)]
    gaps = {checkpoint.label: checkpoint.model.frame_gap for checkpoint in checkpoints}
    if len(set(gaps.values())) > 1:
        raise ValueError(
            f"`frame_gap` differs between the checkpoints, {gaps}; it must be the same, because latent actions over "
            "different times cannot be compared. Probe the checkpoints one by one."
        )
    kinds = {isinstance(checkpoint.model, LabeledLatents) for checkpoint in checkpoints}
    if len(kinds) > 1:
        raise ValueError(
            f"`checkpoints` has both models and labels: {', '.join(paths)}. They cannot be compared, because a model "
            "also describes o_t, for which labels have only a thumbnail. Probe them in two runs."
        )
    return checkpoints


def short_labels(paths: list[str]) -> list[str]:
    """Returns the last distinctive part of each path, or the whole paths if those parts are not unique."""
    labels = [
        next(
            (
                part
                for part in reversed(Path(path).parts)
                if part not in GENERIC_PARTS and not part.isdigit() and part not in ("/", "..")
            ),
            path,
        )
        for path in paths
    ]
    return labels if len(set(labels)) == len(labels) else list(paths)


def _open(path: str, label: str, device: str) -> Checkpoint:
    if is_labels(path):
        labels = LabeledLatents(path)
        return Checkpoint(path, label, "labels", labels.camera, labels)
    found = find_lam(path)
    return Checkpoint(path, label, found.type, found.camera, CheckpointModel(found.load(), device=device))
