"""A copy of a dataset with its latent labels as columns; LeRobot copies, so that videos stay as they are, byte by byte.

The columns' names are those that public plugins for latent actions share. Names without `observation.` or `action.`
are no features of a policy.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.datasets.compute_stats import get_feature_stats
from lerobot.datasets.dataset_tools import add_features
from lerobot.datasets.io_utils import load_stats, write_stats
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from lerobot_lara.data.latent_labels.labels import LatentLabels
from lerobot_lara.data.latent_labels.manifest import CODE_INDICES, LATENT_ACTION, MANIFEST

LATENTS = "latent_labels.continuous_vector_latents"
CODES = "latent_labels.codebook_id_latents"
VALID = "latent_labels.valid"
COPIED_MANIFEST = "label_manifest.json"

# Name of a column -> its values (rows, width), and which rows its statistics are of.
Columns = Mapping[str, tuple[np.ndarray, np.ndarray]]


def label_columns(labels: LatentLabels) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The columns of labels; rows that are not valid hold 0, and codes of -1.

    Raises:
        ValueError: Not every episode of the dataset is labeled.
    """
    if labels.manifest.dataset.get("episodes") is not None:
        raise ValueError(
            f"{labels.folder} has labels of some episodes only; a copy of the dataset needs those of all. Label the "
            "dataset without `episodes`."
        )
    valid = labels.valid
    columns = {LATENTS: (labels.column(LATENT_ACTION)[:, 0].astype(np.float32), valid)}
    if labels.manifest.codebook_size is not None:
        columns[CODES] = (labels.column(CODE_INDICES)[:, 0].astype(np.int64), valid)
    columns[VALID] = (valid[:, None], np.ones(len(valid), bool))
    return columns


def copy_dataset(
    source: Any, labels: LatentLabels, columns: Columns, names: Mapping[str, Any], *, repo_id: str, root: Path
) -> None:
    """Copies a dataset with more columns.

    Args:
        source: The opened dataset (`Source`).
        labels: Its labels, whose manifest is copied too.
        columns: The new columns.
        names: Names of the dimensions of some of them.
        repo_id: Name of the copy.
        root: Folder of the copy, which does not exist.

    Raises:
        ValueError: The folder exists.
    """
    if root.exists():
        raise ValueError(
            f"{root} exists already. Choose another name or folder for the copy, or delete that one."
        )
    dataset = LeRobotDataset(source.config.repo_id, root=source.config.root, revision=source.config.revision)
    partial = root.with_name(f"{root.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)  # of a run that was killed; only this writes under that name
    features = {
        name: (
            values,
            {"dtype": str(values.dtype), "shape": (values.shape[1],), "names": names.get(name)},
        )
        for name, (values, _) in columns.items()
    }
    add_features(dataset, features, output_dir=partial, repo_id=repo_id)
    stats = load_stats(partial) or {}
    for name, (values, counted) in columns.items():
        stats[name] = get_feature_stats(values[counted].astype(np.float64), axis=0, keepdims=False)
    write_stats(stats, partial)
    shutil.copyfile(labels.folder / MANIFEST, partial / COPIED_MANIFEST)
    partial.rename(root)
