"""The end of labeling: codes, if they are fitted afterwards, the check of all files, and the manifest last."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from lerobot_lara.data.latent_labels.manifest import (
    CODE_INDICES,
    ERRORS,
    LATENT_ACTION,
    MANIFEST,
    LabelManifest,
)
from lerobot_lara.data.mixture.reader import to_array
from lerobot_lara.files.atomic import write_json
from lerobot_lara.labeling.check import check_labels
from lerobot_lara.labeling.codebook import borrow_codebook, fit_codebook, quantize, save_codebook
from lerobot_lara.labeling.plan import PLAN, LabelPlan
from lerobot_lara.labeling.shards import read_record, write_shard

logger = logging.getLogger(__name__)

# Latent actions, spread over the dataset, that a codebook is fitted to; more make it no better, and may not fit into
# memory.
MAX_FITTED = 50_000


def finish_labels(folder: Path) -> LabelManifest:
    """Finishes labels whose shards are all there.

    Args:
        folder: Folder of the labels, which holds the plan.

    Returns:
        The manifest, which was written.

    Raises:
        ValueError: The file of a shard is missing, or rows are.
    """
    plan = LabelPlan.read(folder)
    files = [folder / plan.file(shard) for shard in range(len(plan.shards))]
    lacking = [file for file in files if not file.is_file()]
    if lacking:
        raise ValueError(
            f"{lacking[0]} is missing ({len(lacking)} of {len(files)} files). Run `lara label` again, which goes on."
        )
    manifest = plan.manifest
    if plan.options.codebook_size is not None or plan.options.codebook is not None:
        manifest = _with_codes(folder, plan, files)
    errors = [error for file in files for error in read_record(file)["errors"]]
    valid = sum(int(_valid(file).sum()) for file in files)
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    manifest = replace(manifest, valid=valid, invalid=rows - valid, errors=errors, plan=plan.digest)
    (folder / ERRORS).unlink(missing_ok=True)
    if errors:
        write_json(folder / ERRORS, errors)
    manifest.write(folder)
    try:
        check_labels(folder)
    except ValueError:
        (folder / MANIFEST).unlink()
        raise
    if not errors:
        (folder / PLAN).unlink()
    return manifest


def _valid(file: Path) -> np.ndarray:
    """Which rows of a file are valid: (N,) bool."""
    return pq.read_table(file, columns=["valid"])["valid"].to_numpy()


def _with_codes(folder: Path, plan: LabelPlan, files: list[Path]) -> LabelManifest:
    """Adds the codes to the files of all shards; returns the manifest that says so."""
    manifest = plan.manifest
    shape = (1 + manifest.augmentations, manifest.num_latent_tokens, manifest.latent_dim)

    def latents(file: Path) -> tuple[np.ndarray, np.ndarray]:
        """(N, R, L, C) latents, and (N,) which of them are valid."""
        table = pq.read_table(file, columns=[LATENT_ACTION, "valid"])
        values = to_array(table[LATENT_ACTION]).astype(np.float32)
        return values.reshape(-1, *shape), table["valid"].to_numpy()

    if plan.options.codebook is not None:
        codebook = borrow_codebook(plan.options.codebook, manifest)
    else:
        assert plan.options.codebook_size is not None
        counts = [int(_valid(file).sum()) for file in files]
        chosen = np.linspace(0, sum(counts) - 1, min(sum(counts), MAX_FITTED)).astype(int)
        parts = []
        for file, last in zip(files, np.cumsum(counts), strict=True):
            values, valid = latents(file)
            first = last - valid.sum()
            parts.append(values[valid, 0][chosen[(chosen >= first) & (chosen < last)] - first])
        codebook = fit_codebook(np.concatenate(parts), plan.options.codebook_size, seed=manifest.seed)
    for file in files:
        table = pq.read_table(file)
        values, valid = latents(file)
        codes = quantize(values.reshape(-1, *shape[1:]), codebook).reshape(len(values), -1)
        codes[~valid] = -1
        columns = {
            name: table[name].to_numpy() if not table[name].type.num_fields else to_array(table[name])
            for name in table.column_names
            if name != CODE_INDICES
        }
        write_shard(file, columns | {CODE_INDICES: codes.astype(np.int16)}, read_record(file))
    digest = save_codebook(folder, codebook)
    return replace(manifest, codebook_size=codebook.shape[1], codebook_per_token=True, codebook_sha256=digest)
