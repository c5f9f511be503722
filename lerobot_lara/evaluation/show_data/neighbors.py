"""Pairs of frames whose latent actions are alike: what a latent action model takes for the same, across episodes.

Legend: N rows of labels, Z width of a latent action.
"""

from typing import Any

import numpy as np

from lerobot_lara.data.latent_labels.fingerprint import find_difference
from lerobot_lara.data.latent_labels.labels import LatentLabels
from lerobot_lara.data.mixture.samples import EntrySamples
from lerobot_lara.evaluation.show_data.pairs import frame_uris

NUM_ANCHORS = 4
NUM_NEIGHBORS = 3
# Rows among which neighbors are looked for.
MAX_ROWS = 4000


def nearest_rows(
    latents: np.ndarray, episodes: np.ndarray, anchor: int, count: int
) -> list[tuple[int, float]]:
    """Finds the rows whose latent actions are most like one row's, one of each other episode.

    Args:
        latents: (N, Z).
        episodes: (N,) episode of each row.
        anchor: The row.
        count: Largest number of rows to find.

    Returns:
        Rows with their cosine similarity after subtracting the mean latent action, the most similar first.
    """
    centered = latents - latents.mean(0)
    norms = np.linalg.norm(centered, axis=1).clip(1e-12)
    similarity = centered @ centered[anchor] / (norms * norms[anchor])
    found: dict[int, tuple[int, float]] = {}
    for row in np.argsort(-similarity, kind="stable"):
        episode = int(episodes[row])
        if episode != episodes[anchor] and episode not in found:
            found[episode] = (int(row), float(similarity[row]))
        if len(found) == count:
            break
    return list(found.values())


def describe_neighbors(entry: EntrySamples, camera: str, seed: int) -> list[list[dict[str, Any]]]:
    """Shows pairs of an entry with labels, and beside each the pairs with the most similar latent actions.

    Args:
        entry: The entry, whose configuration names its labels.
        camera: Camera of the policy that the latent action model looks at.
        seed: Of the choice of pairs.

    Returns:
        For each chosen pair a row of pairs, itself first: `frames` as data URIs, `episode`, `start` and `similarity`.

    Raises:
        ValueError: The labels are not of this dataset.
    """
    assert entry.source.config.labels is not None
    labels = LatentLabels(entry.source.config.labels)
    reader, manifest = entry.reader, labels.manifest
    difference = find_difference(entry.source.meta, manifest.dataset, manifest.camera, reader.episodes)
    if difference is not None:
        raise ValueError(
            f"The labels in {entry.source.config.labels} are not of {entry.source.name} as it is now: {difference}. "
            "Label it again."
        )
    positions = {episode: position for position, episode in enumerate(reader.episodes)}
    of_rows = labels.column("episode_index")
    rows = np.flatnonzero(labels.valid & np.isin(of_rows, reader.episodes))
    rows = rows[np.linspace(0, len(rows) - 1, min(MAX_ROWS, len(rows))).astype(int)]
    latents = np.stack([labels.latent_action(row) for row in rows])
    episodes, starts = of_rows[rows], labels.column("frame_index")[rows]
    # Those that stand out: latent actions near the mean are like nothing in particular.
    distance = np.linalg.norm(latents - latents.mean(0), axis=1)
    candidates = np.argsort(-distance)[: max(NUM_ANCHORS, len(rows) // 4)]
    chosen = np.random.default_rng(seed).choice(candidates, min(NUM_ANCHORS, len(candidates)), replace=False)
    shown = []
    for anchor in chosen:
        found = [(int(anchor), 1.0), *nearest_rows(latents, episodes, int(anchor), NUM_NEIGHBORS)]
        pairs = []
        for row, similarity in found:
            episode, start = int(episodes[row]), int(starts[row])
            pair = reader.pair(entry.source.cameras[camera], positions[episode], start, manifest.frame_gap)
            pairs.append(
                {"frames": frame_uris(pair), "episode": episode, "start": start, "similarity": similarity}
            )
        shown.append(pairs)
    return shown
