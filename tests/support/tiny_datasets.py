"""Synthetic datasets in LeRobot's format."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

REPO_ID = "local/tiny"


def make_tiny_dataset(
    root: str | Path,
    *,
    num_episodes: int = 2,
    num_frames: int | Sequence[int] = 12,
    size: int | tuple[int, int] = 32,
    action: bool = True,
    state: bool = True,
    action_dim: int = 4,
    state_dim: int = 4,
    cameras: Sequence[str] = ("observation.image",),
    storage: str = "image",
    fps: int = 10,
    task: str | Sequence[str] = "push the square",
    seed: int = 0,
) -> Path:
    """Writes a LeRobotDataset v3 in which a bright square walks over a noisy background.

    The first two action dimensions are the square's next displacement, so both the frames and the actions
    carry something to learn; the first two state dimensions are its position.

    Args:
        root: Directory to create; must not exist yet.
        num_frames: Frames per episode, one number for all or one for each.
        size: Square side, or (height, width), in pixels.
        action: False writes video without any `action` feature.
        cameras: Image feature keys.
        storage: "image" or "video".
        task: One instruction for all episodes, or several that the episodes take in turn.

    Returns:
        `root`; open it with `LeRobotDataset(REPO_ID, root=root)`.
    """
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    height, width = (size, size) if isinstance(size, int) else size
    lengths = [num_frames] * num_episodes if isinstance(num_frames, int) else list(num_frames)
    tasks = [task] if isinstance(task, str) else list(task)
    features: dict[str, dict[str, Any]] = {
        camera: {"dtype": storage, "shape": (height, width, 3), "names": ["height", "width", "channels"]}
        for camera in cameras
    }
    if state:
        features["observation.state"] = {"dtype": "float32", "shape": (state_dim,), "names": None}
    if action:
        features["action"] = {"dtype": "float32", "shape": (action_dim,), "names": None}
    dataset = LeRobotDataset.create(
        REPO_ID, fps=fps, features=features, root=root, robot_type="synthetic", use_videos=storage == "video"
    )

    generator = np.random.default_rng(seed)
    side = max(4, min(height, width) // 4)
    room = np.array([height - side, width - side])
    for episode, length in enumerate(lengths):
        position = generator.integers(0, room + 1)
        for _ in range(length):
            target = np.clip(position + generator.integers(-3, 4, size=2), 0, room)
            frame: dict[str, Any] = {"task": tasks[episode % len(tasks)]}
            for index, camera in enumerate(cameras):
                image = generator.integers(0, 40, size=(height, width, 3), dtype=np.uint8)
                row, column = position
                image[row : row + side, column : column + side] = (220, 180 - 60 * (index % 3), 60)
                frame[camera] = image
            if state:
                frame["observation.state"] = _padded(position / room, state_dim)
            if action:
                frame["action"] = _padded((target - position) / 3, action_dim)
            dataset.add_frame(frame)
            position = target
        dataset.save_episode()
    dataset.finalize()
    return Path(root)


def _padded(values: np.ndarray, dim: int) -> np.ndarray:
    padded = np.zeros(dim, dtype=np.float32)
    padded[: min(dim, len(values))] = values[:dim]
    return padded
