"""Codes for a continuous latent action model (LAM): codebooks that are fitted afterwards, one per latent-action token.

A short training with a quantizer often ignores its latent. K-means on the latents of a LAM that was trained without one
keeps almost all of what they tell.

Legend: N rows, L latent-action tokens, C latent width, V codes.
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from lerobot_lara.data.latent_labels.labels import codebook_digest, read_codebook
from lerobot_lara.data.latent_labels.manifest import CODEBOOK, LabelManifest
from lerobot_lara.files.atomic import replaced_file
from lerobot_lara.files.user_path import user_path


def fit_codebook(latents: np.ndarray, codebook_size: int, *, seed: int) -> np.ndarray:
    """Fits codes to latent actions by k-means.

    Args:
        latents: (N, L, C); more than some ten thousand make codes no better.
        codebook_size: V.
        seed: Of the first centers.

    Returns:
        (L, V, C) float32.

    Raises:
        ValueError: There are fewer different latents than codes.
    """
    from sklearn.cluster import KMeans

    for token in range(latents.shape[1]):
        different = len(np.unique(latents[:, token], axis=0))
        if different < codebook_size:
            raise ValueError(
                f"`codebook_size` is {codebook_size}, but token {token} of the latent actions has only {different} "
                "different values. Choose fewer codes, or label more frames."
            )
    fits = [
        KMeans(codebook_size, n_init=1, random_state=seed).fit(latents[:, token].astype(np.float64))
        for token in range(latents.shape[1])
    ]
    return np.stack([fit.cluster_centers_ for fit in fits]).astype(np.float32)


def quantize(latents: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """Finds the nearest code of each token.

    Args:
        latents: (N, L, C).
        codebook: (L, V, C).

    Returns:
        (N, L) int64.
    """
    codes = np.empty(latents.shape[:2], np.int64)
    for token, centers in enumerate(codebook.astype(np.float64)):
        values = latents[:, token].astype(np.float64)
        # |z - c|^2 without |z|^2, which is the same for all codes.
        codes[:, token] = ((centers**2).sum(1) - 2 * values @ centers.T).argmin(1)
    return codes


def save_codebook(folder: Path, codebook: np.ndarray) -> str:
    """Writes a codebook into a folder of labels, and returns its SHA-256."""
    path = folder / CODEBOOK
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as partial:
        save_file({"codebook": codebook}, partial)
    return codebook_digest(codebook)


def borrow_codebook(path: str, manifest: LabelManifest) -> np.ndarray:
    """The codebook of other labels.

    Args:
        path: Their folder.
        manifest: Of the labels that are to get it.

    Returns:
        (L, V, C) float32.

    Raises:
        ValueError: They have none, or are of another latent action model.
    """
    folder = user_path(path)
    other = LabelManifest.read(folder)
    if other.codebook_sha256 is None:
        raise ValueError(
            f"`codebook` is {path}, whose labels have no fitted codebook. Name labels that were made with "
            "--codebook-size."
        )
    for name in ("sha256", "settings_sha256"):
        if other.lam[name] != manifest.lam[name]:
            raise ValueError(
                f"`codebook` is {path}, whose labels are of another latent action model ({other.lam['name']}). Name "
                "labels of this one, or fit a codebook with --codebook-size."
            )
    return read_codebook(folder, other)
