"""A model's latent actions and features of all pairs, computed once for all measurements.

Shapes: N pairs, D latent width, L latent-action tokens, F feature width, S side of the frames.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lerobot_lara.backbones.images import resize
from lerobot_lara.evaluation.probe.data import Pairs
from lerobot_lara.evaluation.probe.model import Latents, ProbedModel

BATCH_SIZE = 64
# Probes from o_t also receive a thumbnail of this side, because the encoder's pooled features do not say where things
# are.
THUMBNAIL_SIZE = 8


@dataclass(frozen=True)
class Encoded:
    """A model's latents and features of all pairs.

    Attributes:
        latents: Latents of the pairs.
        features: (N, 2, F) float32 features of o_t and o_{t+K}.
        observation: (N, ...) float32 description of o_t alone: its features and a thumbnail.
        no_motion: (N, D) float32 latents of the pairs (o_t, o_t): what the latent says about o_t itself; None for
            labels without them.
    """

    latents: Latents
    features: np.ndarray
    observation: np.ndarray
    no_motion: np.ndarray | None


def encode_pairs(model: ProbedModel, pairs: Pairs) -> Encoded:
    """Encodes all pairs, and each first frame paired with itself."""
    features, no_motion, thumbnails = [], [], []
    for rows in batches(len(pairs), "Encoding frames"):
        frames = pairs.images(rows)
        current = frames[:, 0]
        features.append(model.features(frames.flatten(0, 1)).unflatten(0, (-1, 2)))
        no_motion.append(model.encode(torch.stack([current, current], dim=1)).continuous)
        thumbnails.append(resize(current, THUMBNAIL_SIZE).flatten(1))
    both = torch.cat(features)
    observation = torch.cat([both[:, 0], torch.cat(thumbnails)], dim=1)
    return Encoded(
        latents=encode_frames(model, pairs),
        features=both.numpy(),
        observation=observation.numpy(),
        no_motion=torch.cat(no_motion).numpy(),
    )


def encode_frames(
    model: ProbedModel,
    pairs: Pairs,
    change: Callable[[Tensor, slice], Tensor] | None = None,
    *,
    title: str = "Encoding pairs",
) -> Latents:
    """Encodes all pairs.

    Args:
        model: The model.
        pairs: The pairs.
        change: Applied to each batch of frames (n, 2, 3, S, S), together with its slice of the pairs.
        title: Title of the progress bar.

    Returns:
        The latents of all pairs.
    """
    parts = []
    for rows in batches(len(pairs), title):
        frames = pairs.images(rows)
        parts.append(model.encode(frames if change is None else change(frames, rows)))
    return concatenate(parts)


def concatenate(parts: list[Latents]) -> Latents:
    """Joins the latents of successive batches."""
    codes = [part.codes for part in parts if part.codes is not None]
    return Latents(
        torch.cat([part.continuous for part in parts]),
        torch.cat([part.quantized for part in parts]),
        torch.cat(codes) if codes else None,
    )


def batches(count: int, title: str) -> Iterator[slice]:
    """Yields slices of at most `BATCH_SIZE` that cover 0 ... count - 1, with a progress bar."""
    for start in tqdm(range(0, count, BATCH_SIZE), desc=title, unit="batch"):
        yield slice(start, min(start + BATCH_SIZE, count))
