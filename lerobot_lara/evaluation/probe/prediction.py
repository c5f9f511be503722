"""Forward prediction with the correct latent action, compared with trivial alternatives on the same pairs.

Shapes: N pairs, D latent width, h prediction size.
"""

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from lerobot_lara.backbones.images import resize
from lerobot_lara.evaluation.probe.bootstrap import EpisodeBootstrap, Estimate
from lerobot_lara.evaluation.probe.data import Pairs
from lerobot_lara.evaluation.probe.encoding import batches
from lerobot_lara.evaluation.probe.model import Latents, ProbedModel
from lerobot_lara.lam.perceptual import PerceptualLoss

logger = logging.getLogger(__name__)

OWN, SHUFFLED, MEAN, COPY = "own latent", "shuffled latent", "mean latent", "copy of o_t"
# LPIPS runs a VGG16 on every frame, so that it is measured on at most this many evenly spread pairs.
LPIPS_PAIRS = 256
LPIPS_MIN_SIZE = 32


@dataclass(frozen=True)
class Prediction:
    """How close predictions are to o_{t+K}, by kind of prediction (`OWN`, `SHUFFLED`, `MEAN`, `COPY`).

    Attributes:
        psnr: PSNR in dB of the mean squared error over all pairs.
        ssim: Mean SSIM over pairs, at most 1.
        lpips: Mean LPIPS over up to `LPIPS_PAIRS` pairs, lower is closer; None if it could not be measured.
        lpips_missing: Why LPIPS could not be measured; empty otherwise.
    """

    psnr: dict[str, Estimate]
    ssim: dict[str, Estimate]
    lpips: dict[str, Estimate] | None
    lpips_missing: str


def measure_prediction(
    model: ProbedModel,
    pairs: Pairs,
    latents: Latents,
    partners: np.ndarray,
    *,
    bootstrap: EpisodeBootstrap,
    device: str,
) -> Prediction:
    """Predicts the second frame of every pair and compares it with the true one.

    Args:
        model: A model that decodes.
        pairs: The pairs.
        latents: Latents of the pairs.
        partners: (N,) index of a pair from another episode, whose latent is the shuffled one.
        bootstrap: Bootstrap over the pairs' episodes.
        device: Device on which LPIPS is computed.

    Returns:
        The scores, with confidence intervals.
    """
    quantized = latents.quantized
    used = {
        OWN: quantized,
        SHUFFLED: quantized[partners],
        MEAN: quantized.mean(0, keepdim=True).expand_as(quantized),
    }
    lpips, missing = _open_lpips(model, pairs, quantized, device)
    with_lpips = np.zeros(len(pairs), dtype=bool)
    if lpips is not None:
        with_lpips[np.linspace(0, len(pairs) - 1, min(LPIPS_PAIRS, len(pairs))).round().astype(int)] = True
    kinds = (*used, COPY)
    errors, ssim, distances = ({kind: np.zeros(len(pairs)) for kind in kinds} for _ in range(3))
    for rows in batches(len(pairs), "Predicting"):
        current, future = pairs.images(rows).unbind(1)
        predicted = {kind: model.decode(current, latent[rows]).clamp(0, 1) for kind, latent in used.items()}
        size = predicted[OWN].shape[-1]
        predicted[COPY], future = resize(current, size), resize(future, size)
        chosen = with_lpips[rows]
        for kind, images in predicted.items():
            errors[kind][rows] = (images - future).square().mean((1, 2, 3)).numpy()
            scores = structural_similarity_index_measure(images, future, data_range=1.0, reduction="none")
            assert isinstance(scores, Tensor)
            ssim[kind][rows] = scores.reshape(-1).numpy()
            if lpips is not None and chosen.any():
                with torch.no_grad():
                    distance = lpips(images[chosen].to(device), future[chosen].to(device)).cpu()
                distances[kind][np.arange(len(pairs))[rows][chosen]] = distance.numpy()
    return Prediction(
        psnr={kind: bootstrap.psnr(errors[kind]) for kind in kinds},
        ssim={kind: bootstrap.mean(ssim[kind]) for kind in kinds},
        lpips=None
        if lpips is None
        else {kind: bootstrap.mean(distances[kind], with_lpips) for kind in kinds},
        lpips_missing=missing,
    )


def squared_errors(model: ProbedModel, pairs: Pairs, quantized: Tensor) -> np.ndarray:
    """Mean squared errors (N,) of the predictions from latents (N, D)."""
    errors = []
    for rows in batches(len(pairs), "Predicting"):
        current, future = pairs.images(rows).unbind(1)
        predicted = model.decode(current, quantized[rows]).clamp(0, 1)
        errors.append((predicted - resize(future, predicted.shape[-1])).square().mean((1, 2, 3)))
    return torch.cat(errors).numpy()


def _open_lpips(
    model: ProbedModel, pairs: Pairs, quantized: Tensor, device: str
) -> tuple[PerceptualLoss | None, str]:
    size = model.decode(pairs.images(slice(0, 1))[:, 0], quantized[:1]).shape[-1]
    if size < LPIPS_MIN_SIZE:
        return (
            None,
            f"LPIPS was not measured: it needs frames of at least {LPIPS_MIN_SIZE} pixels, and these have {size}.",
        )
    try:
        return PerceptualLoss("stlpips").to(device), ""
    except ValueError as error:
        logger.warning("LPIPS is not measured: %s", error)
        return None, "LPIPS was not measured: the package stlpips-pytorch is not installed."
