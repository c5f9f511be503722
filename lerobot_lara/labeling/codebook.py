"""Codes for a continuous latent action model (LAM): codebooks that are fitted afterwards, one per latent-action token.

A short training with a quantizer often ignores its latent. K-means on the latents of a LAM that was trained without one
keeps almost all of what they tell.

Legend: N rows, L latent-action tokens, C latent width, V codes.
"""

import hashlib
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from lerobot_lara.data.latent_labels.manifest import CODEBOOK, LabelManifest
from lerobot_lara.files.atomic import replaced_file
from lerobot_lara.files.user_path import user_path

# More rows make a codebook no better.
MAX_ROWS = 50_000


def fit_codebook(latents: np.ndarray, codebook_size: int, *, seed: int) -> np.ndarray:
    """Fits codes to latent actions by k-means.

    Args:
        latents: (N, L, C).
        codebook_size: V.
        seed: Of the first centers.

    Returns:
        (L, V, C) float32.

    Raises:
        ValueError: There are fewer different latents than codes.
    """
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise ValueError(
            "`codebook_size` needs the package scikit-learn. Install this package with its extra `label`."
        ) from error
    chosen = latents[np.linspace(0, len(latents) - 1, min(len(latents), MAX_ROWS)).astype(int)]
    for token in range(latents.shape[1]):
        different = len(np.unique(chosen[:, token], axis=0))
        if different < codebook_size:
            raise ValueError(
                f"`codebook_size` is {codebook_size}, but token {token} of the latent actions has only {different} "
                "different values. Choose fewer codes, or label more frames."
            )
    fits = [
        KMeans(codebook_size, n_init=1, random_state=seed).fit(chosen[:, token].astype(np.float64))
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


def codebook_digest(codebook: np.ndarray) -> str:
    """SHA-256 of a codebook's numbers."""
    return hashlib.sha256(np.ascontiguousarray(codebook, dtype="<f4").tobytes()).hexdigest()


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
    return load_file(folder / CODEBOOK)["codebook"]
