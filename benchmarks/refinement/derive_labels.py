"""Derives labels for the study's controls from those of a latent action model.

    python benchmarks/refinement/derive_labels.py <labels> <new labels> --codes=no_motion [--codebook=<labels>]
    python benchmarks/refinement/derive_labels.py <labels> <new labels> --codes=shuffled [--seed=0]

`no_motion` are codes of the pairs (o_t, o_t), with a codebook fitted to them (or taken from other derived labels);
`shuffled` gives each frame the codes of another frame of the dataset.
"""

import argparse
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lerobot_lara.data.latent_labels.labels import LatentLabels
from lerobot_lara.data.latent_labels.manifest import CODE_INDICES, NO_MOTION
from lerobot_lara.labeling.codebook import fit_codebook, quantize, save_codebook


def derive_labels(
    source: Path, target: Path, *, codes: str, codebook: Path | None = None, seed: int = 0
) -> None:
    """Writes labels with other codes.

    Args:
        source: Folder of labels with codes; for "no_motion", of labels that were made with `--no-motion`.
        target: Folder to write, which must not exist.
        codes: "no_motion" or "shuffled".
        codebook: For "no_motion", derived labels whose codebook is taken; None fits one.
        seed: Of codebook and permutation.

    Raises:
        FileExistsError: `target` exists.
    """
    labels = LatentLabels(source)
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    manifest = labels.manifest
    if codes == "no_motion":
        latents = labels.column(NO_MOTION).reshape(len(labels), manifest.num_latent_tokens, -1)
        fitted = (
            fit_codebook(
                latents.astype(np.float32)[labels.valid], int(manifest.codebook_size or 0), seed=seed
            )
            if codebook is None
            else LatentLabels(codebook).codebook
        )
        assert fitted is not None
        values = quantize(latents.astype(np.float32), fitted)
        manifest = replace(manifest, codebook_sha256=save_codebook(partial, fitted))
    else:
        values = labels.column(CODE_INDICES).reshape(len(labels), -1).copy()
        rows = np.flatnonzero(labels.valid)
        values[rows] = values[np.random.default_rng(seed).permutation(rows)]
    write_codes(partial, np.where(labels.valid[:, None], values, -1))
    manifest.write(partial)
    if target.exists():
        raise FileExistsError(f"{target} exists. Delete it first.")
    os.replace(partial, target)


def write_codes(folder: Path, codes: np.ndarray) -> None:
    """Replaces the codes (N, L) in the tables of a folder of labels."""
    first = 0
    for file in sorted((folder / "data").glob("*/*.parquet")):
        table = pq.read_table(file)
        part = codes[first : first + len(table)]
        first += len(table)
        column = table.schema.get_field_index(CODE_INDICES)
        values = pa.FixedSizeListArray.from_arrays(
            pa.array(part.reshape(-1).astype(np.int16)), codes.shape[1]
        )
        table = table.set_column(column, table.schema.field(column), values)
        pq.write_table(table, file)


def main() -> None:
    """Derives one folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--codes", choices=["no_motion", "shuffled"], required=True)
    parser.add_argument("--codebook", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    derive_labels(**vars(arguments))


if __name__ == "__main__":
    main()
