"""A film of what a latent action model predicts along one episode."""

from pathlib import Path

import numpy as np
import torch
from lerobot.utils.io_utils import write_video
from torch import Tensor

from lerobot_lara.backbones.images import resize
from lerobot_lara.evaluation.probe.data import Pairs
from lerobot_lara.evaluation.probe.measure import Measurement
from lerobot_lara.evaluation.probe.model import ProbedModel

MAX_FRAMES = 150
# Side of a panel in pixels, at least; an even number, as video codecs ask for.
PANEL = 160


def prediction_film(model: ProbedModel, pairs: Pairs, measurement: Measurement, path: Path) -> Path:
    """Films an episode: o_{t+K}, its prediction from the pair's latent, and that from the mean latent, side by side.

    The mean latent is the same for all pairs, so that the right panel shows what the model predicts without knowing the
    pair.

    Args:
        model: A model that decodes.
        pairs: The pairs, of which those of the episode with the most are shown, in order and at their own speed.
        measurement: Measurement of the model.
        path: MP4 to write.
    """
    chosen = longest_episode(pairs)
    quantized = measurement.latents.quantized
    frames = pairs.images(chosen)
    mean = quantized.mean(0, keepdim=True).expand(len(chosen), -1)
    predicted, neutral = (model.decode(frames[:, 0], latents) for latents in (quantized[chosen], mean))
    future = resize(frames[:, 1], predicted.shape[-1])
    panels = torch.cat([future, predicted, neutral], dim=-1)
    step = float(np.median(np.diff(pairs.starts[chosen]))) if len(chosen) > 1 else 1.0
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, _enlarged(panels), max(1, round(pairs.fps / step)))
    return path


def longest_episode(pairs: Pairs) -> np.ndarray:
    """The indices of the pairs of the episode with the most, at most `MAX_FRAMES`, in the order of their frames."""
    episodes, counts = np.unique(pairs.episodes, return_counts=True)
    chosen = np.flatnonzero(pairs.episodes == episodes[counts.argmax()])
    return chosen[np.argsort(pairs.starts[chosen], kind="stable")][:MAX_FRAMES]


def _enlarged(frames: Tensor) -> list[np.ndarray]:
    """Frames (N, 3, S, W) in [0, 1] as (H, W, 3) uint8, enlarged in whole steps to at least `PANEL` pixels."""
    # Twice a whole number: both sides of the video have to be even.
    factor = 2 * -(-PANEL // (2 * frames.shape[-2]))
    pixels = (frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return list(pixels.repeat(factor, axis=1).repeat(factor, axis=2))
