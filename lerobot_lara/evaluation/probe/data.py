"""Frame pairs of a LeRobotDataset, with the actions between the two frames where there are any.

Shapes: N pairs, K frame gap, A action dimensions, S side of the images.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from lerobot.utils.constants import ACTION
from lerobot.utils.import_utils import get_safe_default_video_backend
from torch import Tensor
from tqdm import tqdm

from lerobot_lara.backbones.images import resize
from lerobot_lara.data.mixture.reader import ColumnReader
from lerobot_lara.data.mixture.single import open_single
from lerobot_lara.data.mixture.sources import Source

MIN_EPISODES = 4
# Largest distance in seconds between a decoded frame and its timestamp; LeRobot's own default.
TOLERANCE_S = 1e-4
# A dimension that varies less than this, relative to its magnitude, is constant up to rounding.
CONSTANT = 1e-6


@dataclass(frozen=True)
class Pairs:
    """Frame pairs, none of which crosses the end of an episode.

    Attributes:
        frames: (N, 2, 3, S, S) uint8 RGB frames o_t and o_{t+K}, resized to a square without cropping, as the models
            do.
        episodes: (N,) episode of each pair, as numbered in the dataset.
        starts: (N,) frame t within the episode.
        actions: (N, K, A) actions a_t ... a_{t+K-1} in the dataset's own units, without constant dimensions; None if
            the dataset has no actions that vary.
        action_names: Names of the A dimensions.
        constant_actions: Names of the dimensions that are left out because they never change.
        fps: Frames per second of the dataset.
        camera: Key of the camera.
    """

    frames: Tensor
    episodes: np.ndarray
    starts: np.ndarray
    actions: np.ndarray | None
    action_names: list[str]
    constant_actions: list[str]
    fps: float
    camera: str

    def __len__(self) -> int:
        return len(self.episodes)

    def subset(self, chosen: np.ndarray) -> "Pairs":
        """Some of the pairs, by their indices (n,)."""
        return replace(
            self,
            frames=self.frames[torch.from_numpy(chosen)],
            episodes=self.episodes[chosen],
            starts=self.starts[chosen],
            actions=None if self.actions is None else self.actions[chosen],
        )

    def images(self, chosen: slice | np.ndarray) -> Tensor:
        """Returns some of the pairs as float32 frames (n, 2, 3, S, S) in [0, 1]."""
        return self.frames[chosen].float() / 255


def read_pairs(
    dataset: str, *, camera: str | None, frame_gap: int, image_size: int, max_pairs: int, seed: int
) -> Pairs:
    """Reads pairs that are spread evenly over the episodes.

    Args:
        dataset: Folder of a LeRobotDataset, or its Hub id.
        camera: Key of the camera; None selects the dataset's first.
        frame_gap: K, in frames.
        image_size: S, in pixels.
        max_pairs: Upper bound on N.
        seed: Seed for the positions of the pairs in their episodes.

    Returns:
        The pairs, with the actions between their frames.

    Raises:
        ValueError: If there is no such dataset or camera, fewer than `MIN_EPISODES` episodes contain a pair, or an
            action is not finite.
    """
    if max_pairs < MIN_EPISODES:
        raise ValueError(
            f"`max_pairs` is {max_pairs}; it must be at least {MIN_EPISODES}. Pass --max-pairs={MIN_EPISODES} or more."
        )
    source = open_single(dataset, camera=camera)
    camera = source.cameras[next(iter(source.cameras))]
    reader = source.open_reader(
        source.episodes(), video_backend=get_safe_default_video_backend(), tolerance_s=TOLERANCE_S
    )
    positions, starts = choose_starts(reader.lengths, frame_gap=frame_gap, max_pairs=max_pairs, seed=seed)
    frames = torch.empty(len(positions), 2, 3, image_size, image_size, dtype=torch.uint8)
    for number, (position, start) in enumerate(
        zip(tqdm(positions, desc="Reading pairs", unit="pair"), starts, strict=True)
    ):
        images = reader.pair(camera, int(position), int(start), frame_gap)
        frames[number] = (resize(images.float(), image_size)).round().clamp(0, 255).byte()
    actions, names, constant = _read_actions(source, reader, positions, starts, frame_gap)
    return Pairs(
        frames=frames,
        episodes=np.asarray(reader.episodes)[positions],
        starts=starts,
        actions=actions,
        action_names=names,
        constant_actions=constant,
        fps=source.fps,
        camera=camera,
    )


def choose_starts(
    lengths: np.ndarray, *, frame_gap: int, max_pairs: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Chooses about equally many pairs in each episode, evenly spaced from a random first one.

    Args:
        lengths: (episodes,) number of frames in each episode.
        frame_gap: K, in frames.
        max_pairs: Upper bound on the number of pairs.
        seed: Seed for the random first pairs, and for choosing episodes if there are more of them than pairs.

    Returns:
        For each pair the position of its episode and the frame t within it, (N,) each, in the dataset's order.

    Raises:
        ValueError: If too few episodes contain a pair.
    """
    available = np.maximum(np.asarray(lengths) - frame_gap, 0)
    usable = np.flatnonzero(available)
    if len(usable) < MIN_EPISODES:
        raise ValueError(
            f"`frame_gap` is {frame_gap}, and {len(usable)} of {len(lengths)} episodes are longer than that (the "
            f"longest has {max(lengths, default=0)} frames); it must be shorter than at least {MIN_EPISODES} episodes, "
            "some of which are held out. Pass a --dataset with more or longer episodes."
        )
    generator = np.random.default_rng(seed)
    if len(usable) > max_pairs:
        usable = np.sort(generator.choice(usable, max_pairs, replace=False))
    quotas = _share_out(available[usable], max_pairs)
    positions, starts = [], []
    for position, quota in zip(usable, quotas, strict=True):
        edges = np.arange(quota) * available[position] / quota
        offset = generator.random() * available[position] / quota
        starts.append(np.floor(edges + offset).astype(np.int64))
        positions.append(np.full(quota, position))
    return np.concatenate(positions), np.concatenate(starts)


def partners(episodes: np.ndarray, *, seed: int) -> np.ndarray:
    """Draws for each pair a pair from another episode.

    Args:
        episodes: (N,) episode of each pair; at least two different ones.
        seed: Seed for the draws.

    Returns:
        (N,) indices of pairs.
    """
    order = np.argsort(episodes, kind="stable")
    _, first, counts = np.unique(episodes[order], return_index=True, return_counts=True)
    group = np.repeat(np.arange(len(first)), counts)
    # A random position after the end of the pair's own episode, wrapping around at the end of the list.
    steps = np.random.default_rng(seed).integers(0, len(order) - counts[group])
    result = np.empty(len(order), dtype=np.int64)
    result[order] = order[(first[group] + counts[group] + steps) % len(order)]
    return result


def _share_out(available: np.ndarray, total: int) -> np.ndarray:
    """Equal quotas per episode; what short episodes cannot fill goes to the others."""
    quotas = np.zeros(len(available), dtype=np.int64)
    # Starting with the shortest, each episode takes its share of what is left for it and those after it.
    left, order = total, np.argsort(available, kind="stable")
    for done, episode in enumerate(order):
        quotas[episode] = min(int(available[episode]), left // (len(order) - done))
        left -= int(quotas[episode])
    return quotas


def _read_actions(
    source: Source, reader: ColumnReader, positions: np.ndarray, starts: np.ndarray, frame_gap: int
) -> tuple[np.ndarray | None, list[str], list[str]]:
    if ACTION not in source.meta.features:
        return None, [], []
    first = reader.starts[positions] + starts
    chunks = [reader.numbers(ACTION, range(row, row + frame_gap)) for row in first.tolist()]
    actions = np.stack(chunks).astype(np.float64)  # (N, K, A)
    names = _dimension_names(source.meta.features[ACTION].get("names"), actions.shape[-1])
    if not np.isfinite(actions).all():
        bad = [
            name
            for name, values in zip(names, np.moveaxis(actions, -1, 0), strict=True)
            if not np.isfinite(values).all()
        ]
        raise ValueError(
            f"{source.name} is damaged: its actions have values that are not finite, in {', '.join(bad)}. Repair the "
            "dataset or probe another one."
        )
    scale = np.abs(actions).max(axis=(0, 1))
    varies = actions.std(axis=(0, 1)) > CONSTANT * np.maximum(scale, CONSTANT)
    kept = [name for name, varying in zip(names, varies, strict=True) if varying]
    constant = [name for name, varying in zip(names, varies, strict=True) if not varying]
    return (actions[..., varies] if kept else None), kept, constant


def _dimension_names(names: object, count: int) -> list[str]:
    """Names of a vector's dimensions as LeRobot stores them, a list or a dict of lists, or numbers if it has none."""
    if isinstance(names, dict):
        names = [name for group in names.values() for name in (group if isinstance(group, list) else [group])]
    if isinstance(names, (list, tuple)) and len(names) == count:
        return [str(name) for name in names]
    return [f"dimension {number}" for number in range(count)]
