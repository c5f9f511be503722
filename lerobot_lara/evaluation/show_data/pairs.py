"""Frame pairs of a mixture as a policy meets them: chosen, measured, augmented and drawn.

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

# A pixel has visibly changed if its mean over RGB differs by more than this, of 1: above the noise of video codecs.
VISIBLE_CHANGE = 0.06
# A pair in which a smaller share of the pixels changes visibly is still.
STILL_SHARE = 0.005
# A frame whose brightest value is below this, of 255, is black.
BLACK_LEVEL = 16
# Pictures up to this side are embedded as they are, larger ones as JPEG of at most MAX_SIDE.
LOSSLESS_SIDE = 128
MAX_SIDE = 320


@dataclass(frozen=True)
class Pair:
    """The frames (o_t, o_{t+K}) of one sample.

    Args:
        draw: Of the mixture's epoch.
        episode: Number of the episode in its dataset.
        start: Number of frame o_t in the episode.
        frames: (2, 3, H, W) uint8 for each camera that the dataset has.
        instruction: Of the sample.
        shown: Whether the pair belongs on the page, or was drawn for its numbers only.
    """

    draw: int
    episode: int
    start: int
    frames: dict[str, Tensor]
    instruction: str
    shown: bool

    def visible_change(self, camera: str) -> float:
        """Share of a camera's pixels that changes visibly."""
        return float((absolute_change(self.frames[camera]) > VISIBLE_CHANGE).mean())


def frame_gap(entry: EntrySamples) -> int:
    """K, in frames of the dataset."""
    return max(entry.observation_deltas or (0,))


def num_pairs(entry: EntrySamples) -> np.ndarray:
    """Pairs within each opened episode: (episodes,)."""
    return entry.reader.num_pairs(frame_gap(entry))


def choose_draws(
    dataset: MixtureDataset, number: int, count: int, generator: np.random.Generator
) -> list[int]:
    """Draws of one dataset that hold a whole pair: one at random from each of `count` equal parts of its pairs.

    Args:
        dataset: The mixture.
        number: Of the dataset in the mixture.
        count: How many; fewer if there are fewer pairs.
        generator: Chooses.
    """
    entry = dataset.entries[number]
    pairs = num_pairs(entry)
    edges = np.linspace(0, pairs.sum(), min(count, int(pairs.sum())) + 1).astype(np.int64)
    chosen = generator.integers(edges[:-1], edges[1:])
    ends = np.cumsum(pairs)
    episodes = np.searchsorted(ends, chosen, side="right")
    # An entry with actions has samples without a pair too: its frames are all of its episodes'.
    usable = pairs if len(entry) == ends[-1] else entry.reader.lengths
    frames = np.cumsum(usable)[episodes] - usable[episodes] + chosen - (ends[episodes] - pairs[episodes])
    # The first draw of each frame; DrawSchedule spreads a dataset's draws evenly over its frames.
    draws = dataset.schedule.draws
    return (sum(draws[:number]) - (-frames * draws[number] // len(entry))).tolist()


def read_pairs(
    dataset: MixtureDataset, draws: Sequence[int], num_shown: int, generator: np.random.Generator
) -> list[Pair]:
    """Reads samples; `num_shown` of them, chosen at random, are marked as shown."""
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
    """The frames of the pairs as training sees them.

    Args:
        dataset: The mixture that the pairs are of, without augmentation.
        pairs: Which samples.
        image_transforms: LeRobot's augmentation, applied where samples are made.
        shift: The policy's `random_shift` in pixels, which moves all cameras of a sample alike.
        seed: Of torch, whose state is left as it was.

    Returns:
        For each pair the frames of `Pair.frames`, augmented.
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
    """|o_{t+K} - o_t|, averaged over RGB: (2, 3, H, W) uint8 -> (H, W) in [0, 1]."""
    values = frames.float() / 255
    return (values[1] - values[0]).abs().mean(0).numpy()


def image_uri(image: np.ndarray) -> str:
    """Embeds an image (H, W, 3) uint8: small ones losslessly."""
    picture = Image.fromarray(image)
    buffer = io.BytesIO()
    if max(picture.size) <= LOSSLESS_SIDE:
        picture.save(buffer, "PNG", optimize=True)
        return data_uri(buffer.getvalue())
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    picture.save(buffer, "JPEG", quality=88)
    return data_uri(buffer.getvalue(), "jpeg")


def frame_uris(frames: Tensor) -> list[str]:
    """Embeds (N, 3, H, W) uint8."""
    return [image_uri(image) for image in frames.permute(0, 2, 3, 1).contiguous().numpy()]


def change_uri(change: np.ndarray, brightest: float) -> str:
    """Embeds a difference image.

    Args:
        change: (H, W) in [0, 1].
        brightest: Change that has the brightest color.
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
