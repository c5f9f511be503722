"""Statistics of each episode: format v2.0 lacks them, v2.1 lacks some at times, and format v3.0 requires them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from lerobot.datasets.compute_stats import (
    auto_downsample_height_width,
    compute_episode_stats,
    get_feature_stats,
    sample_indices,
)

from lerobot_lara.data.upgrade.legacy_dataset import LegacyDataset, decode_frames, decode_image

_REQUIRED = ("min", "max", "mean", "std", "count")
_KNOWN = (*_REQUIRED, "q01", "q10", "q50", "q90", "q99")


def described_keys(dataset: LegacyDataset) -> list[str]:
    """Features that have statistics: all except text."""
    return [key for key, feature in dataset.features.items() if feature["dtype"] != "string"]


def usable_statistics(
    dataset: LegacyDataset, episodes: Sequence[dict[str, Any]]
) -> list[dict[str, dict[str, np.ndarray]]]:
    """Returns those of a dataset's own statistics that LeRobot can use.

    A feature is left out of all episodes if its statistics are incomplete, of another shape or not finite in one of
    them, because numbers that were computed in different ways must not be aggregated.

    Args:
        dataset: The dataset.
        episodes: Its statistics by feature, one for each episode.

    Returns:
        Arrays by feature and name, as `episode_statistics` computes them, one for each episode.
    """
    usable: list[dict[str, dict[str, np.ndarray]]] = [{} for _ in episodes]
    for key in described_keys(dataset):
        arrays = [_usable(statistics.get(key), dataset.features[key]) for statistics in episodes]
        if arrays and arrays[0] and all(array and array.keys() == arrays[0].keys() for array in arrays):
            for target, array in zip(usable, arrays, strict=True):
                target[key] = array or {}
    return usable


def _usable(statistics: Any, feature: dict[str, Any]) -> dict[str, np.ndarray] | None:
    """Returns an episode's statistics of a feature as arrays, or None if LeRobot cannot use them."""
    if not isinstance(statistics, dict) or not set(_REQUIRED) <= set(statistics):
        return None
    camera = feature["dtype"] in ("image", "video")
    shapes = ((3, 1, 1), (1, 1, 1)) if camera else (tuple(feature["shape"]),)
    arrays = {}
    for name in _KNOWN:
        if name not in statistics:
            continue
        try:
            array = np.atleast_1d(np.array(statistics[name]))
        except ValueError:  # lists of different lengths
            return None
        expected = ((1,),) if name == "count" else shapes
        if array.dtype.kind not in "biuf" or array.shape not in expected or not np.isfinite(array).all():
            return None
        arrays[name] = array
    return arrays if arrays["count"][0] > 0 else None


def episode_statistics(
    dataset: LegacyDataset, episode: int, keys: Sequence[str] | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """Computes the statistics that LeRobot computes when it records an episode.

    All numbers are used. Of each camera, about a hundred frames are decoded, or more in long episodes, and large
    images are downsampled.

    Args:
        dataset: The dataset.
        episode: Number of the episode.
        keys: Features to describe; None takes all except text.

    Returns:
        `min`, `max`, `mean`, `std`, `q01`, `q10`, `q50`, `q90`, `q99` and `count` of each of these features: of
        vectors (D,) in their own units, of cameras (3, 1, 1) by channel, in [0, 1].

    Raises:
        ValueError: A camera's frames cannot be decoded; names the episode and the camera.
    """
    table = dataset.read_table(episode)
    keys = described_keys(dataset) if keys is None else keys
    cameras = [key for key in (*dataset.image_keys, *dataset.video_keys) if key in keys]
    vectors = {key: _vectors(dataset, episode, table, key) for key in keys if key not in cameras}
    statistics = compute_episode_stats(vectors, dataset.features)
    indices = sample_indices(table.num_rows)
    for key in cameras:
        try:
            if key in dataset.video_keys:
                timestamps = table["timestamp"].take(indices).to_pylist()
                frames = decode_frames(dataset.video_path(episode, key), timestamps, dataset.info["fps"])
            else:
                frames = map(decode_image, table[key].take(indices).to_pylist())
            images = np.stack([auto_downsample_height_width(frame) for frame in frames])
        except (ValueError, IndexError, OSError, RuntimeError) as error:  # what the decoders raise
            raise ValueError(
                f"{dataset.root}: episode {episode}, {key}: cannot be decoded ({error}). Download the dataset again."
            ) from error
        per_channel = get_feature_stats(images, axis=(0, 2, 3), keepdims=True)
        statistics[key] = {
            name: value if name == "count" else np.squeeze(value / 255, axis=0)
            for name, value in per_channel.items()
        }
    return statistics


def _vectors(dataset: LegacyDataset, episode: int, table: pa.Table, key: str) -> np.ndarray:
    """Returns a numeric column of an episode as an array, with one row per frame."""
    feature = dataset.features[key]
    try:
        return np.array(table[key].to_pylist(), dtype=feature["dtype"])
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(
            f"{dataset.root}: episode {episode}, {key}: its values are no {feature['dtype']} of the shape "
            f"{feature['shape']} ({error}). Download the dataset again."
        ) from error
