"""Chooses, measures, augments and draws frame pairs of a mixture as a policy sees them.

Legend: K frame gap, H height and W width of the policy's images.
"""

import copy
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lerobot_lara.data.mixture.dataset import MixtureDataset
from lerobot_lara.data.mixture.samples import EntrySamples
from lerobot_lara.evaluation.page import data_uri
from lerobot_lara.training.augmentation import random_shift, sample_shifts

# A pixel changes visibly if its change, averaged over RGB in [0, 1], exceeds this, which is above the noise of video
# codecs.
VISIBLE_CHANGE = 0.06
# A pair in which a smaller share of the pixels changes visibly shows no motion.
NO_MOTION_SHARE = 0.005
# A frame whose largest value in 0 ... 255 is below this is black.
BLACK_LEVEL = 16
# Images up to this side are embedded losslessly, larger ones as JPEG of at most MAX_SIDE.
LOSSLESS_SIDE = 128
MAX_SIDE = 320


@dataclass(frozen=True)
class Pair:
    """The frames (o_t, o_{t+K}) of one sample.

    Args:
        draw: Index of the sample in the mixture's epoch.
        episode: Index of the episode in its dataset.
        start: Index of frame o_t in the episode.
        frames: (2, 3, H, W) uint8 frames by camera, for the cameras that the dataset has.
        instruction: Instruction of the sample.
        shown: Whether the pair is shown on the page; if not, it is only measured.
    """

    draw: int
    episode: int
    start: int
    frames: dict[str, Tensor]
    instruction: str
    shown: bool

    def visible_change(self, camera: str) -> float:
        """Share of the pixels of a camera that change visibly, in [0, 1]."""
        return float((absolute_change(self.frames[camera]) > VISIBLE_CHANGE).mean())


def frame_gap(entry: EntrySamples) -> int:
    """Frame gap K, in frames of the dataset."""
    return max(entry.observation_deltas or (0,))


def num_pairs(entry: EntrySamples) -> np.ndarray:
    """Pairs within each opened episode: (episodes,)."""
    return entry.reader.num_pairs(frame_gap(entry))


def choose_draws(
    dataset: MixtureDataset, number: int, count: int, generator: np.random.Generator
) -> list[int]:
    """Chooses draws of one dataset that contain a whole pair, one at random from each of `count` equal parts.

    Args:
        dataset: The mixture.
        number: Index of the dataset in the mixture.
        count: Number of draws; fewer if there are fewer pairs.
        generator: Source of randomness.

    Returns:
        Indices of samples in the mixture's epoch.
    """
    entry = dataset.entries[number]
    pairs = num_pairs(entry)
    edges = np.linspace(0, pairs.sum(), min(count, int(pairs.sum())) + 1).astype(np.int64)
    chosen = generator.integers(edges[:-1], edges[1:])
    ends = np.cumsum(pairs)
    episodes = np.searchsorted(ends, chosen, side="right")
    # In an entry with actions, every frame is a sample, even where no pair begins.
    usable = pairs if len(entry) == ends[-1] else entry.reader.lengths
    frames = np.cumsum(usable)[episodes] - usable[episodes] + chosen - (ends[episodes] - pairs[episodes])
    # The first draw of each frame: DrawSchedule spreads the draws of a dataset evenly over its frames.
    draws = dataset.schedule.draws
    return (sum(draws[:number]) - (-frames * draws[number] // len(entry))).tolist()


def read_pairs(
    dataset: MixtureDataset, draws: Sequence[int], num_shown: int, generator: np.random.Generator
) -> list[Pair]:
    """Reads samples and marks some of them, chosen at random, as shown.

    Args:
        dataset: The mixture.
        draws: Indices of samples in the mixture's epoch.
        num_shown: Number of pairs to mark.
        generator: Source of randomness.

    Returns:
        The pairs, in the order of `draws`.
    """
    shown = set(generator.choice(len(draws), min(num_shown, len(draws)), replace=False).tolist())
    return [_read_pair(dataset, draw, position in shown) for position, draw in enumerate(draws)]


def augment_pairs(
    dataset: MixtureDataset,
    pairs: Sequence[Pair],
    *,
    image_transforms: Callable[[Tensor], Tensor] | None,
    shift: int,
    seed: int,
) -> list[dict[str, Tensor]]:
    """Augments the frames of pairs as in training.

    Args:
        dataset: The mixture from which the pairs were read, without augmentation.
        pairs: The pairs.
        image_transforms: LeRobot's augmentation, applied when samples are read.
        shift: The policy's `random_shift` in pixels, which shifts all cameras of a sample alike.
        seed: Seed for torch, whose random state is restored afterwards.

    Returns:
        For each pair its augmented frames, as in `Pair.frames`.
    """
    augmented = copy.copy(dataset)
    augmented.entries = [copy.copy(entry) for entry in dataset.entries]
    for entry in augmented.entries:
        entry.image_transforms = image_transforms
    results = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for pair in pairs:
            frames = _read_pair(augmented, pair.draw, True).frames
            shifts = sample_shifts(1, shift)
            results.append(
                {
                    camera: random_shift(images[None], shift, shifts=shifts)[0]
                    for camera, images in frames.items()
                }
            )
    return results


def absolute_change(frames: Tensor) -> np.ndarray:
    """Absolute change |o_{t+K} - o_t|, averaged over RGB: (2, 3, H, W) uint8 -> (H, W) in [0, 1]."""
    values = frames.float() / 255
    return (values[1] - values[0]).abs().mean(0).numpy()


def image_uri(image: np.ndarray) -> str:
    """Returns a data URI of an image (H, W, 3) uint8, lossless if the image is small."""
    picture = Image.fromarray(image)
    buffer = io.BytesIO()
    if max(picture.size) <= LOSSLESS_SIDE:
        picture.save(buffer, "PNG", optimize=True)
        return data_uri(buffer.getvalue())
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    picture.save(buffer, "JPEG", quality=88)
    return data_uri(buffer.getvalue(), "jpeg")


def frame_uris(frames: Tensor) -> list[str]:
    """Returns data URIs of images (N, 3, H, W) uint8."""
    return [image_uri(image) for image in frames.permute(0, 2, 3, 1).contiguous().numpy()]


def change_uri(change: np.ndarray, brightest: float) -> str:
    """Returns a data URI of a difference image.

    Args:
        change: (H, W) in [0, 1].
        brightest: Change that gets the brightest color.
    """
    colored = matplotlib.colormaps["magma"](np.clip(change / brightest, 0, 1))
    return image_uri((255 * colored[..., :3]).round().astype(np.uint8))


def _read_pair(dataset: MixtureDataset, draw: int, shown: bool) -> Pair:
    number, frame = dataset.schedule[draw]
    entry = dataset.entries[number]
    position, row = entry.locate(frame)
    sample = dataset[draw]
    return Pair(
        draw=draw,
        episode=entry.reader.episodes[position],
        start=row - int(entry.reader.starts[position]),
        frames={
            camera: sample[camera] for camera in dataset.meta.camera_keys if camera in entry.source.cameras
        },
        instruction=sample["task"],
        shown=shown,
    )
