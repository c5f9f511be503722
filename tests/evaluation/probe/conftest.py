"""A world of a colored square on gray ground, and latent action models of every quality that need no training."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from lerobot_lara.evaluation.probe.data import Pairs
from lerobot_lara.evaluation.probe.measure import Measurement, measure
from lerobot_lara.evaluation.probe.model import Latents

SIZE, SIDE, GAP = 24, 6, 2
COLOR = torch.tensor([0.7, 0.45, 0.05])
# A fixed slope of gray, on which nothing but the square has a color.
GROUND = (0.2 + 0.3 * torch.linspace(0, 1, SIZE)).expand(3, SIZE, SIZE)


def draw(positions: Tensor) -> Tensor:
    """Pictures (N, 3, SIZE, SIZE) of a square whose upper left corner is at (row, column), (N, 2)."""
    cells = torch.arange(SIZE)
    inside = (cells >= positions.round().unsqueeze(-1)) & (cells < positions.round().unsqueeze(-1) + SIDE)
    mask = inside[:, 0, :, None] & inside[:, 1, None, :]  # (N, SIZE, SIZE)
    return torch.where(mask[:, None], COLOR.view(3, 1, 1), GROUND)


def locate(images: Tensor) -> Tensor:
    """Corners (N, 2) of the square, found by its color whatever the light."""
    color = ((images[:, 0] - images[:, 2]) > 0.25).float()  # (N, SIZE, SIZE)
    cells, weight = torch.arange(SIZE).float(), color.sum((1, 2)).clamp(min=1)
    rows, columns = (color.sum(axis) @ cells / weight for axis in (2, 1))
    return torch.stack([rows, columns], dim=1) - (SIDE - 1) / 2


def make_pairs(num_episodes: int = 10, per_episode: int = 16, seed: int = 0) -> Pairs:
    """Squares that are drawn back to the middle, as by an expert, and pushed at random."""
    generator = torch.Generator().manual_seed(seed)
    count = num_episodes * per_episode
    start = torch.randint(3, SIZE - SIDE - 2, (count, 2), generator=generator).float()
    push = torch.randint(-3, 4, (count, 2), generator=generator)
    end = (start - 0.5 * (start - 9) + push).round().clamp(0, SIZE - SIDE)
    frames = torch.stack([draw(start), draw(end)], dim=1)
    steps = ((end - start) / GAP).numpy()
    return Pairs(
        frames=(frames * 255).round().byte(),
        episodes=np.repeat(np.arange(num_episodes), per_episode),
        starts=np.tile(np.arange(per_episode), num_episodes),
        actions=np.stack([steps, steps], axis=1).astype(np.float64),
        action_names=["down", "right"],
        constant_actions=["gripper"],
        fps=10,
        camera="observation.image",
    )


class Oracle:
    """Knows the actions, and what they do."""

    frame_gap, image_size, codebook_size, decodes = GAP, SIZE, None, True

    def encode(self, frames: Tensor) -> Latents:
        latent = self.latent(frames)
        return Latents(latent, latent)

    def latent(self, frames: Tensor) -> Tensor:
        return (locate(frames[:, 1]) - locate(frames[:, 0])) / GAP

    def features(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))

    def decode(self, images: Tensor, quantized: Tensor) -> Tensor:
        return draw((locate(images) + GAP * quantized[:, :2]).clamp(0, SIZE - SIDE))


class Constant(Oracle):
    """Has collapsed: predicts what the mean action does."""

    def latent(self, frames: Tensor) -> Tensor:
        return torch.full((len(frames), 2), 0.3)


class Random(Oracle):
    """Says something else every time."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def latent(self, frames: Tensor) -> Tensor:
        return 2 * torch.randn(len(frames), 2, generator=self.generator)


class Describer(Oracle):
    """Describes o_t, from which an expert's actions can be guessed, and nothing of the motion."""

    def latent(self, frames: Tensor) -> Tensor:
        return (locate(frames[:, 0]) - 9) / -4


class LightMeter(Oracle):
    """The oracle, but what the light does dominates its latent."""

    def latent(self, frames: Tensor) -> Tensor:
        light = 40 * (frames[:, 1, :, 0].mean((1, 2)) - frames[:, 0, :, 0].mean((1, 2)))
        return torch.cat([super().latent(frames), light[:, None]], dim=1)


class Dazzled(Oracle):
    """The oracle, but light looks like motion to it."""

    def latent(self, frames: Tensor) -> Tensor:
        light = frames[:, 1, :, 0].mean((1, 2)) - frames[:, 0, :, 0].mean((1, 2))
        return super().latent(frames) + 25 * light[:, None]


class FeaturePredictor(Oracle):
    """Predicts no frames."""

    decodes = False


MODELS: dict[str, type] = {
    model.__name__: model
    for model in (Oracle, Constant, Random, Describer, LightMeter, Dazzled, FeaturePredictor)
}


@pytest.fixture(scope="session")
def pairs() -> Pairs:
    return make_pairs()


@pytest.fixture
def models() -> dict[str, type]:
    """The classes, by name."""
    return MODELS


@pytest.fixture(scope="session")
def measured(pairs: Pairs) -> Callable[..., Measurement]:
    """Returns `measured(name, actions=True) -> Measurement`; each is made once."""
    done: dict[tuple[str, bool], Measurement] = {}

    def get(name: str, *, actions: bool = True) -> Measurement:
        if (name, actions) not in done:
            seen = pairs if actions else Pairs(**{**vars(pairs), "actions": None})
            done[name, actions] = measure(MODELS[name](), seen)
        return done[name, actions]

    return get
