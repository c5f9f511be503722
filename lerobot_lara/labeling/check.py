"""Checks latent labels: every row of the dataset exactly once, values that make sense, the right model."""

from pathlib import Path

import numpy as np

from lerobot_lara.data.latent_labels.labels import LatentLabels
from lerobot_lara.data.latent_labels.manifest import CODE_INDICES, LATENT_ACTION, NO_MOTION
from lerobot_lara.labeling.codebook import codebook_digest


def check_labels(path: str | Path) -> LatentLabels:
    """Checks a folder of labels from its tables alone.

    Args:
        path: The folder.

    Returns:
        The labels.

    Raises:
        ValueError: Rows are missing, doubled or wrong; says which.
    """
    labels = LatentLabels(path)
    manifest = labels.manifest
    lengths = manifest.dataset["episode_lengths"]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    episodes = manifest.dataset.get("episodes")
    chosen = range(len(lengths)) if episodes is None else episodes
    expected = np.concatenate([np.arange(starts[each], starts[each + 1]) for each in chosen])
    if len(labels) != len(expected) or (labels.index != expected).any():
        missing = np.setdiff1d(expected, labels.index)
        found = f"row {int(missing[0])} is missing" if len(missing) else "it has rows that the dataset lacks"
        raise ValueError(
            f"{labels.folder} does not hold every row of the dataset exactly once: {found} ({len(labels)} rows of "
            f"{len(expected)}). Label the dataset again, or copy the labels again."
        )
    broken = {each["episode"] for each in manifest.errors}
    valid = np.concatenate(
        [
            np.arange(lengths[each]) < (0 if each in broken else lengths[each] - manifest.frame_gap)
            for each in chosen
        ]
    )
    problems = []
    if (labels.valid != valid).any():
        problems.append(f"`valid` is wrong at {int((labels.valid != valid).sum())} rows")
    if int(labels.valid.sum()) != manifest.valid or int((~labels.valid).sum()) != manifest.invalid:
        problems.append("the manifest counts other rows as valid")
    columns = [LATENT_ACTION] + ([NO_MOTION] if manifest.no_motion else [])
    for name in columns:
        if not np.isfinite(labels.column(name)).all():
            problems.append(f"`{name}` has values that are not finite")
    if manifest.codebook_size is not None:
        codes = labels.column(CODE_INDICES)
        outside = (codes[valid] < 0) | (codes[valid] >= manifest.codebook_size)
        if outside.any():
            problems.append(f"`{CODE_INDICES}` has values outside 0 to {manifest.codebook_size - 1}")
    codebook = labels.codebook
    if codebook is not None and codebook_digest(codebook) != manifest.codebook_sha256:
        problems.append("the codebook is not the one of the manifest")
    if problems:
        raise ValueError(
            f"{labels.folder}: {'; '.join(problems)}. Label the dataset again, or copy the labels again."
        )
    return labels
