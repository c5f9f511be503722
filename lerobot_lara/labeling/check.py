"""Checks latent labels: every row of the dataset exactly once, values that make sense, the right model."""

from pathlib import Path

import numpy as np

from lerobot_lara.data.latent_labels.labels import LatentLabels
from lerobot_lara.data.latent_labels.manifest import CODE_INDICES, LATENT_ACTION, NO_MOTION, SHIFT


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
    problems += _value_problems(labels, valid)
    shape = (manifest.num_latent_tokens, manifest.codebook_size, manifest.latent_dim)
    codebook = labels.codebook
    if codebook is not None and codebook.shape != shape:
        problems.append(f"the codebook has the shape {codebook.shape}, and not {shape}")
    if problems:
        raise ValueError(
            f"{labels.folder}: {'; '.join(problems)}. Label the dataset again, or copy the labels again."
        )
    return labels


def _value_problems(labels: LatentLabels, valid: np.ndarray) -> list[str]:
    """What is wrong with the values, of which only a part is in memory at a time."""
    manifest, problems = labels.manifest, []
    for name in [LATENT_ACTION] + ([NO_MOTION] if manifest.no_motion else []):
        kinds, finite = set(), True
        for _, values in labels.parts(name):
            kinds.add(str(values.dtype))
            finite = finite and bool(np.isfinite(values).all())
        if not finite:
            problems.append(f"`{name}` has values that are not finite")
        if kinds != {manifest.dtype}:
            problems.append(f"`{name}` is {', '.join(sorted(kinds))}, and not {manifest.dtype}")
    if manifest.codebook_size is not None:
        for row, codes in labels.parts(CODE_INDICES):
            inside = codes[valid[row : row + len(codes)]]
            if ((inside < 0) | (inside >= manifest.codebook_size)).any():
                problems.append(f"`{CODE_INDICES}` has values outside 0 to {manifest.codebook_size - 1}")
                break
    if manifest.augmentations:
        for _, shifts in labels.parts(SHIFT):
            if shifts[:, 0].any() or np.abs(shifts).max() > manifest.random_shift:
                problems.append(
                    f"`{SHIFT}` has shifts of more than {manifest.random_shift} pixels, or of the first version"
                )
                break
    return problems
