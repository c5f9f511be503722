"""Reads latent labels: the latent actions of a dataset's frames, by their index in the dataset.

Legend: N rows, L latent-action tokens, C latent width, R 1 + augmentations (the first is not shifted).
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from lerobot_lara.data.latent_labels.manifest import (
    CODE_INDICES,
    CODEBOOK,
    LATENT_ACTION,
    NO_MOTION,
    SHIFT,
    LabelManifest,
)
from lerobot_lara.data.mixture.reader import to_array
from lerobot_lara.data.tables import read_schema
from lerobot_lara.files.user_path import user_path


class LatentLabels:
    """A folder of finished labels. Its table is memory-mapped, so that copies in data-loading workers cost no memory.

    Args:
        path: The folder that `lara label --out` has written.

    Attributes:
        folder: The folder.
        manifest: What the labels are of.
        index: (N,) int64 dataset index of each row, ascending.
        valid: (N,) bool, False where the pair crosses its episode's end or could not be read.

    Raises:
        ValueError: There are no finished labels, or they are damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.folder = user_path(path)
        self.manifest = LabelManifest.read(self.folder)
        files = sorted((self.folder / "data").glob("*/*.parquet"))
        if not files:
            raise ValueError(f"{self.folder} lacks its tables in `data`. Copy or download the labels again.")
        for file in files:
            self._check_columns(file)
        with _without_bars():
            table = datasets.Dataset.from_parquet([str(file) for file in files])
        self._table = table.data
        self._views: dict[str, list[np.ndarray]] = {}
        self.index = self._table.column("index").to_numpy()
        self.valid = self._table.column("valid").to_numpy()
        if (np.diff(self.index) <= 0).any():
            raise ValueError(
                f"{self.folder} has rows twice or in another order. Label the dataset again, or copy the labels again."
            )

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.index)

    @property
    def codebook(self) -> np.ndarray | None:
        """(L, V, C) float32 codebooks that were fitted to these or other labels; None without."""
        return None if self.manifest.codebook_sha256 is None else read_codebook(self.folder, self.manifest)

    def find(self, index: np.ndarray) -> np.ndarray:
        """Looks up rows of the dataset.

        Args:
            index: (n,) int64 indices in the dataset.

        Returns:
            (n,) rows of the labels.

        Raises:
            ValueError: One of them is not labeled.
        """
        rows = np.searchsorted(self.index, index)
        found = (rows < len(self.index)) & (self.index[np.minimum(rows, len(self.index) - 1)] == index)
        if not found.all():
            raise ValueError(
                f"{self.folder} has no label of row {int(np.asarray(index)[~found][0])} of the dataset "
                f"({int((~found).sum())} of {len(found)} rows are missing). Label these episodes too."
            )
        return rows

    def latent_action(self, row: int, version: int = 0) -> np.ndarray:
        """(L * C,) float32 latent action of a row, in one of its R versions."""
        return self._values(LATENT_ACTION, row)[version].astype(np.float32)

    def no_motion(self, row: int, version: int = 0) -> np.ndarray:
        """(L * C,) float32 latent action of the pair (o_t, o_t) of a row, in one of its R versions."""
        return self._values(NO_MOTION, row)[version].astype(np.float32)

    def code_indices(self, row: int, version: int = 0) -> np.ndarray:
        """(L,) int64 codes of a row, in one of its R versions."""
        return self._values(CODE_INDICES, row)[version].astype(np.int64)

    def shift(self, row: int, version: int) -> np.ndarray:
        """(2,) int64 pixels (down, right) by which both frames of a version are shifted."""
        return self._values(SHIFT, row)[version].astype(np.int64)

    def column(self, name: str) -> np.ndarray:
        """A whole column, for example `episode_index` (N,) or `latent_action` (N, R, L * C)."""
        return np.concatenate([values for _, values in self.parts(name)])

    def parts(self, name: str) -> Iterator[tuple[int, np.ndarray]]:
        """A whole column in parts that fit into memory: the first row of each, and its values as in `column`."""
        row = 0
        for chunk in self._table.column(name).chunks:
            values = to_array(chunk)
            yield (
                row,
                values.reshape(len(chunk), self._versions, -1) if chunk.type.num_fields else values[:, 0],
            )
            row += len(chunk)

    @property
    def _versions(self) -> int:
        return 1 + self.manifest.augmentations

    def _values(self, name: str, row: int) -> np.ndarray:
        """(R, width) values of a row."""
        if name not in self._views:
            # Without copies: pages of the mapped file.
            chunks = [chunk for chunk in self._table.column(name).chunks if len(chunk)]
            self._views[name] = [to_array(chunk).reshape(len(chunk), self._versions, -1) for chunk in chunks]
            self._ends = np.cumsum([len(chunk) for chunk in chunks])
        number = int(np.searchsorted(self._ends, row, side="right"))
        return self._views[name][number][row - (self._ends[number - 1] if number else 0)]

    def __getstate__(self) -> dict[str, Any]:
        """Without the views, which would reach data-loading workers as copies."""
        return vars(self) | {"_views": {}}

    def _check_columns(self, file: Path) -> None:
        schema = read_schema(file)
        for name, kind in (("index", pa.int64()), ("valid", pa.bool_())):
            scalar = schema.field(name).type if name in schema.names else None
            if scalar != kind:
                raise ValueError(
                    f"{file}: `{name}` is {scalar}; it must be a column of {kind}. Copy or download the labels again."
                )
        manifest, width = self.manifest, self._versions * self.manifest.latent_width
        expected = {LATENT_ACTION: width}
        if manifest.codebook_size is not None:
            expected[CODE_INDICES] = self._versions * manifest.num_latent_tokens
        if manifest.no_motion:
            expected[NO_MOTION] = width
        if manifest.augmentations:
            expected[SHIFT] = self._versions * 2
        for name, size in expected.items():
            found = schema.field(name).type if name in schema.names else None
            if getattr(found, "list_size", None) != size:
                raise ValueError(
                    f"{file}: `{name}` is {found}; it must be a list of {size}, as {self.folder}'s manifest says. Copy "
                    "or download the labels again."
                )


def read_codebook(folder: Path, manifest: LabelManifest) -> np.ndarray:
    """Reads the codebooks of labels.

    Args:
        folder: Folder of the labels.
        manifest: Their manifest, which names a codebook.

    Returns:
        (L, V, C) float32.

    Raises:
        ValueError: They are missing, damaged or not those of the manifest.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = folder / CODEBOOK
    try:
        codebook = load_file(path)["codebook"]
    except (FileNotFoundError, KeyError, SafetensorError) as error:
        raise ValueError(
            f"{path} is missing or damaged ({type(error).__name__}: {error}). Copy or download the labels again."
        ) from error
    if codebook_digest(codebook) != manifest.codebook_sha256:
        raise ValueError(
            f"{path}: the codebook is not the one of the manifest. Copy or download the labels again."
        )
    return codebook


def codebook_digest(codebook: np.ndarray) -> str:
    """SHA-256 of a codebook's numbers."""
    return hashlib.sha256(np.ascontiguousarray(codebook, dtype="<f4").tobytes()).hexdigest()


@contextmanager
def _without_bars() -> Iterator[None]:
    """Without the progress bars of `datasets` while a table is mapped."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
