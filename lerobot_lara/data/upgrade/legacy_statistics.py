"""Statistics of single episodes, which the dataset format v2.0 lacks and v3.0 is built from."""

import numpy as np
from lerobot.datasets.compute_stats import (
    auto_downsample_height_width,
    compute_episode_stats,
    get_feature_stats,
    sample_indices,
)

from lerobot_lara.data.upgrade.legacy_dataset import LegacyDataset, decode_frames, decode_image


def episode_statistics(dataset: LegacyDataset, episode: int) -> dict[str, dict[str, np.ndarray]]:
    """Computes what LeRobot computes when it records an episode.

    Numbers count in full. Of the cameras about a hundred frames are decoded, more in long episodes, and large
    images are thinned out.

    Returns:
        Per feature `min`, `max`, `mean`, `std`, `q01`, `q10`, `q50`, `q90`, `q99` and `count`. Vectors: (D,) in
        their own units. Cameras: (3, 1, 1) per channel, in [0, 1]. Text has none.

    Raises:
        ValueError: A camera's frames cannot be decoded; names the episode and the camera.
    """
    table = dataset.read_table(episode)
    cameras = [*dataset.image_keys, *dataset.video_keys]
    vectors = {
        key: np.array(table[key].to_pylist(), dtype=feature["dtype"])
        for key, feature in dataset.features.items()
        if key not in cameras and feature["dtype"] != "string"
    }
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
            raise ValueError(f"source: episode {episode}, {key}: {error}") from error
        per_channel = get_feature_stats(images, axis=(0, 2, 3), keepdims=True)
        statistics[key] = {
            name: value if name == "count" else np.squeeze(value / 255, axis=0)
            for name, value in per_channel.items()
        }
    return statistics
