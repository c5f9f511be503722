"""What scripted experts have in common: a demonstration, and attempts at it until one succeeds."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

MAX_ATTEMPTS = 20
LOWEST_SIMULATOR_SEED = 2**20
"""Simulator seeds are drawn from here upwards, as `lerobot-eval` counts up from its `seed`, 1000 by default."""

Frame = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]
"""Images by camera, (H, W, 3) uint8, and the state, (S,), as seen before an action; and the action, (A,)."""


@dataclass(frozen=True)
class Demonstration:
    """An episode of a scripted expert.

    Attributes:
        images: By camera, (T, H, W, 3) uint8, as seen before each action.
        states: (T, S) float32, as seen before each action.
        actions: (T, A) float32, the expert's.
        simulator_seed: Seed of the episode's start.
        noise_std: Of the noise on executed actions, in their units.
        failed_attempts: Attempts before this one, in which the expert did not solve the task.
    """

    images: dict[str, np.ndarray]
    states: np.ndarray
    actions: np.ndarray
    simulator_seed: int
    noise_std: float
    failed_attempts: int


def record_demonstration(
    attempt: Callable[[np.random.Generator, int, float], list[Frame] | None],
    *,
    task: str,
    seed: int,
    episode: int,
    noise_stds: Sequence[float],
) -> Demonstration:
    """Records attempts of an expert until one succeeds; the arguments determine the result.

    The expert's action is the label. The action that is executed carries noise, so that the data also shows states off
    the expert's path and the way back from them.

    Args:
        attempt: Makes one attempt from a source of chance, the seed of the start and a noise level; returns the frames,
            or None if the task was not solved.
        task: Name of the task.
        seed: Seed of the dataset.
        episode: Number of the episode within its task.
        noise_stds: Noise levels, which the episodes take in turn.

    Raises:
        RuntimeError: The expert failed `MAX_ATTEMPTS` times.
    """
    noise_std = noise_stds[episode % len(noise_stds)]
    for number in range(MAX_ATTEMPTS):
        generator = np.random.default_rng([seed, zlib.crc32(task.encode()), episode, number])
        simulator_seed = int(generator.integers(LOWEST_SIMULATOR_SEED, 2**31))
        frames = attempt(generator, simulator_seed, noise_std)
        if frames is not None:
            images, states, actions = zip(*frames, strict=True)
            cameras = {name: np.stack([image[name] for image in images]) for name in images[0]}
            return Demonstration(
                images=cameras,
                states=np.stack(states).astype(np.float32),
                actions=np.stack(actions).astype(np.float32),
                simulator_seed=simulator_seed,
                noise_std=noise_std,
                failed_attempts=number,
            )
    raise RuntimeError(f"{task}: the expert failed {MAX_ATTEMPTS} times in a row in episode {episode}.")
