"""Statistics of each episode, which format v2.0 lacks and format v3.0 requires."""

import numpy as np
from lerobot.datasets.compute_stats import (
    auto_downsample_height_width,
    compute_episode_stats,
    get_feature_stats,
    sample_indices,
)

from lerobot_lara.data.upgrade.legacy_dataset import LegacyDataset, decode_frames, decode_image


def episode_statistics(dataset: LegacyDataset, episode: int) -> dict[str, dict[str, np.ndarray]]:
    """Computes the statistics that LeRobot computes when it records an episode.

    All numbers are used. Of each camera, about a hundred frames are decoded, or more in long episodes, and large
    images are downsampled.

    Args:
        dataset: The dataset.
        episode: Number of the episode.

    Returns:
        `min`, `max`, `mean`, `std`, `q01`, `q10`, `q50`, `q90`, `q99` and `count` of each feature except text: of
        vectors (D,) in their own units, of cameras (3, 1, 1) by channel, in [0, 1].

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
            raise ValueError(
                f"{dataset.root}: episode {episode}, {key}: cannot be decoded ({error}). Download the dataset again."
            ) from error
        per_channel = get_feature_stats(images, axis=(0, 2, 3), keepdims=True)
        statistics[key] = {
            name: value if name == "count" else np.squeeze(value / 255, axis=0)
            for name, value in per_channel.items()
        }
    return statistics
