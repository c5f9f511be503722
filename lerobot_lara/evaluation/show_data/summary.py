"""Describes one dataset of a mixture in numbers.

Legend: N rows, D dimensions of a state or action.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lerobot.configs import NormalizationMode, PreTrainedConfig
from lerobot.processor import NormalizerProcessorStep, TransitionKey
from lerobot.processor.converters import create_transition
from lerobot.utils.constants import ACTION, OBS_STATE
from lerobot.utils.feature_utils import dataset_to_policy_features

from lerobot_lara.data.mixture.config import VectorMap
from lerobot_lara.data.mixture.dataset import MixtureDataset
from lerobot_lara.data.mixture.normalization import UnitConversion
from lerobot_lara.data.mixture.samples import EntrySamples
from lerobot_lara.data.video.import_video import DEFAULT_CAPTION
from lerobot_lara.evaluation.show_data.pairs import BLACK_LEVEL, NO_MOTION_SHARE, Pair, frame_gap, num_pairs

MAX_ROWS = 2000
MAX_EPISODES = 2000
MAX_INSTRUCTIONS = 8
NUM_BINS = 48
# Normalized values beyond this are outliers: standard deviations, or half-widths of the range.
OUTLIER = {NormalizationMode.MEAN_STD: 10.0}
OTHER_OUTLIER = 3.0


def describe_entry(dataset: MixtureDataset, number: int, policy: PreTrainedConfig) -> dict[str, Any]:
    """Describes the size, timing, vectors, language and episode lengths of a dataset.

    Args:
        dataset: The mixture.
        number: Index of the dataset in the mixture.
        policy: Policy whose normalization the histograms show.

    Returns:
        The numbers that the page shows, by name.
    """
    entry = dataset.entries[number]
    source, lengths, gap = entry.source, entry.reader.lengths, frame_gap(entry)
    draws = dataset.schedule.draws
    return {
        "name": source.name,
        "repo_id": source.config.repo_id,
        "episodes": len(lengths),
        "frames": int(lengths.sum()),
        "seconds": int(lengths.sum()) / source.fps,
        "pairs": int(num_pairs(entry).sum()),
        "samples": len(entry),
        "draws": draws[number],
        "share": draws[number] / sum(draws),
        "repeats": draws[number] / len(entry),
        "fps": source.fps,
        "gap": gap,
        "gap_s": gap / source.fps,
        "embodiment": source.embodiment,
        "row": entry.embodiment_id,
        "labeled": entry.labeled,
        "unused_actions": not entry.labeled and ACTION in source.meta.features,
        "robot": source.meta.robot_type,
        "language": _describe_language(entry),
        "lengths": {
            "shortest": int(lengths.min()),
            "median": float(np.median(lengths)),
            "longest": int(lengths.max()),
            "without_pair": int((lengths <= gap).sum()),
            "histogram": _length_histogram(lengths, gap),
        },
        "vectors": [
            _describe_vectors(entry, name, key, column, units, dataset, policy)
            for name, key, column, units in (
                ("Action", ACTION, source.action, entry.action_units),
                ("State", OBS_STATE, source.state, entry.state_units),
            )
            if column is not None and units is not None
        ],
    }


def describe_cameras(entry: EntrySamples, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Describes what each of the policy's cameras receives from a dataset, and how much moves in the pairs.

    Args:
        entry: The dataset.
        pairs: Pairs of this dataset.

    Returns:
        A description of each camera, in the policy's order; "key" is None if the dataset lacks it.
    """
    source = entry.source
    described: list[dict[str, Any]] = []
    for camera, size in entry.layout.image_sizes.items():
        key = source.cameras.get(camera)
        if key is None:
            described.append({"camera": camera, "key": None})
            continue
        height, width = source.camera_shape(camera)
        feature = source.meta.features[key]
        codec = (feature.get("info") or {}).get("video.codec")
        changes = [pair.visible_change(camera) for pair in pairs]
        images = torch.cat([pair.frames[camera] for pair in pairs])
        described.append(
            {
                "camera": camera,
                "key": key,
                "size": (height, width),
                "storage": f"{feature['dtype']}, {codec}" if codec else feature["dtype"],
                "fit": _describe_fit((height, width), size),
                "change": float(np.median(changes)),
                "no_motion": sum(change < NO_MOTION_SHARE for change in changes),
                "pairs": len(pairs),
                "black": int((images.flatten(1).amax(1) < BLACK_LEVEL).sum()),
                "images": len(images),
            }
        )
    return described


def _describe_language(entry: EntrySamples) -> dict[str, Any]:
    """Counts episodes by instruction, for evenly spread episodes."""
    starts = entry.reader.starts
    chosen = np.linspace(0, len(starts) - 1, min(MAX_EPISODES, len(starts))).round().astype(int)
    counts = Counter(entry.instruction(int(starts[position])) for position in chosen)
    missing = [text for text in counts if text.strip() in ("", DEFAULT_CAPTION)]
    config = entry.source.config
    column = "LeRobot's tasks" if config.language_key == "task" else f"the column {config.language_key}"
    return {
        "source": column if config.instruction is None else "the entry's instruction",
        "distinct": len(entry.instructions()),
        "episodes": len(chosen),
        "missing": sum(counts[text] for text in missing),
        "examples": counts.most_common(MAX_INSTRUCTIONS),
        "more": max(0, len(counts) - MAX_INSTRUCTIONS),
    }


def _describe_vectors(
    entry: EntrySamples,
    name: str,
    key: str,
    column: VectorMap,
    units: UnitConversion,
    dataset: MixtureDataset,
    policy: PreTrainedConfig,
) -> dict[str, Any]:
    """Ranges of a state or action in the dataset's units, and histograms of its normalized values."""
    total = int(entry.reader.lengths.sum())
    rows = np.unique(np.linspace(0, total - 1, min(MAX_ROWS, total)).astype(int)).tolist()
    # Row by row, because the reader reads everything between the first and the last row.
    values = np.concatenate([entry.vectors(column, [row]) for row in rows])
    stats = entry.source.stats(column)
    mode = NormalizationMode(
        policy.normalization_mapping.get("ACTION" if key == ACTION else "STATE", NormalizationMode.IDENTITY)
    )
    extremes = _normalize(np.stack([stats["min"], stats["max"]]), units, key, dataset, policy)
    normalized = _normalize(values, units, key, dataset, policy)
    limit = {
        NormalizationMode.MEAN_STD: 4.0,
        NormalizationMode.IDENTITY: float(np.abs(normalized).max()) or 1.0,
    }.get(mode, 1.5)
    outlier = OUTLIER.get(mode, OTHER_OUTLIER)
    described = []
    for index, label in enumerate(_dimension_names(entry, column)):
        low, high = stats["min"][index], stats["max"][index]
        constant = bool(high - low <= 1e-6 * max(1.0, abs(high), abs(low)))
        inside = np.abs(normalized[:, index]) <= limit
        counts = np.histogram(normalized[inside, index], NUM_BINS, (-limit, limit))[0]
        furthest = float(np.abs(extremes[:, index]).max())
        # Written in the units of a reference dataset that is constant there.
        lost = not constant and bool(np.ptp(extremes[:, index]) == 0)
        described.append(
            {
                "name": label,
                **{statistic: float(stats[statistic][index]) for statistic in ("min", "mean", "std", "max")},
                "constant": constant,
                "lost": lost,
                "outlier": mode is not NormalizationMode.IDENTITY and not constant and furthest > outlier,
                "furthest": furthest,
                "histogram": (counts / max(counts.max(), 1)).tolist(),
                "below": float((normalized[:, index] < -limit).mean()),
                "above": float((normalized[:, index] > limit).mean()),
            }
        )
    return {
        "title": f"{name} dimensions",
        "key": key,
        "column": column.key,
        "mode": mode.value,
        "unit": {NormalizationMode.MEAN_STD: "standard deviations", NormalizationMode.IDENTITY: "units"}.get(
            mode, "half-widths of the range"
        ),
        "limit": limit,
        "outlier": outlier,
        "num_rows": len(rows),
        "rows": described,
    }


def _normalize(
    values: np.ndarray, units: UnitConversion, key: str, dataset: MixtureDataset, policy: PreTrainedConfig
) -> np.ndarray:
    """Converts and normalizes (N, D) from the dataset's units as for the policy."""
    known, extra = units(values)
    features = dataset_to_policy_features(
        {name: dataset.features[name] for name in (key,) if name in dataset.features}
    )
    if features:
        step = NormalizerProcessorStep(features, policy.normalization_mapping, dataset.meta.stats)
        tensor = torch.from_numpy(known)
        if key == ACTION:
            known = step(create_transition(action=tensor))[TransitionKey.ACTION].numpy()
        else:
            known = step(create_transition(observation={key: tensor}))[TransitionKey.OBSERVATION][key].numpy()
    return np.concatenate([known[:, : values.shape[1]], extra], axis=1)


def _dimension_names(entry: EntrySamples, column: VectorMap) -> list[str]:
    """Names of the dimensions in use; numbers if the dataset has no names."""
    assert column.key is not None
    feature = entry.source.meta.features[column.key]
    width = int(np.prod(feature["shape"]))
    names = feature.get("names")
    if isinstance(names, dict):
        names = next((value for value in names.values() if isinstance(value, list)), None)
    if not isinstance(names, list) or len(names) != width:
        names = [str(index) for index in range(width)]
    return [str(names[dim]) for dim in (range(width) if column.dims is None else column.dims)]


def _describe_fit(size: tuple[int, int], wanted: tuple[int, int]) -> str:
    """How `fit_image` converts images from one size to another."""
    if size == wanted:
        return "unchanged"
    excess = (size[1] * wanted[0]) / (size[0] * wanted[1])
    if abs(excess - 1) < 0.01:
        return "resized"
    lost = 1 - min(excess, 1 / excess)
    return f"{lost:.0%} cut off {'at the sides' if excess > 1 else 'above and below'}, then resized"


def _length_histogram(lengths: np.ndarray, gap: int) -> dict[str, Any]:
    """Histogram of episode lengths from 0 to the longest, with heights in [0, 1] and the position of the frame gap."""
    longest = int(lengths.max())
    counts, edges = np.histogram(lengths, min(NUM_BINS, longest + 1), (0, longest + 1))
    return {
        "heights": (counts / counts.max()).tolist(),
        "most": int(counts.max()),
        "too_short": int((edges[1:] <= gap + 1).sum()),
        "gap": min(1.0, (gap + 1) / (longest + 1)),
    }
