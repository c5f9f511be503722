"""Does a latent action mean the same in another scene? The latent of pair A is applied to a frame of another episode.

Cycle consistency: the model then encodes (frame B, its own prediction) and should recover the latent that was applied.
A latent that describes the scene instead of the motion is not recovered.

Shapes: N pairs, D latent width, h prediction size.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lerobot_lara.backbones.images import resize
from lerobot_lara.evaluation.probe.action_probe import RETRIEVAL_BATCH, retrieve
from lerobot_lara.evaluation.probe.bootstrap import EpisodeBootstrap, Estimate
from lerobot_lara.evaluation.probe.data import Pairs
from lerobot_lara.evaluation.probe.encoding import batches, concatenate
from lerobot_lara.evaluation.probe.model import Latents, ProbedModel


@dataclass(frozen=True)
class Transfer:
    """Cycle consistency over all pairs. Latents are centered by their mean.

    Attributes:
        cosine: Mean cosine between the recovered and the applied latent, in [-1, 1]; 0 for constant latents.
        shuffled_cosine: The same against a latent that was not applied.
        same_frame_cosine: `cosine` when the latent is applied to its own frame, which is an upper bound for transfer.
        relative_error: Squared error of the recovered latent divided by the latents' variance; 1 if the mean latent is
            recovered every time.
        shuffled_relative_error: The same against a latent that was not applied.
        retrieval: Share of pairs whose applied latent, among 32, is the nearest to the recovered one.
        retrieval_chance: Expected retrieval of a constant.
        code_agreement: Share of tokens whose code is recovered; None without a quantizer.
    """

    cosine: Estimate
    shuffled_cosine: Estimate
    same_frame_cosine: Estimate
    relative_error: Estimate
    shuffled_relative_error: Estimate
    retrieval: Estimate
    retrieval_chance: float
    code_agreement: Estimate | None


def measure_transfer(
    model: ProbedModel,
    pairs: Pairs,
    latents: Latents,
    partners: np.ndarray,
    *,
    bootstrap: EpisodeBootstrap,
    seed: int,
) -> Transfer:
    """Applies each pair's latent to its partner's frame o_t and tries to recover it.

    Args:
        model: A model that decodes.
        pairs: The pairs.
        latents: Latents of the pairs.
        partners: (N,) index of a pair from another episode, for each pair.
        bootstrap: Bootstrap over the pairs' episodes.
        seed: Seed for the retrieval candidates.

    Returns:
        Cycle consistency, with confidence intervals.
    """
    applied = latents.continuous
    recovered = apply_and_encode(model, pairs, latents.quantized, partners)
    same = apply_and_encode(model, pairs, latents.quantized, np.arange(len(pairs)))
    other = applied[partners]
    spread = (applied - applied.mean(0)).square().sum(1).numpy()

    def relative(error: np.ndarray) -> Estimate:
        # For constant latents this is 1: they are recovered no better than by their mean.
        return bootstrap(_ratio, error, spread)

    hits, chance = retrieve(
        recovered.continuous.numpy(), applied.numpy(), batch_size=RETRIEVAL_BATCH, seed=seed
    )
    agreement = None
    if latents.codes is not None and recovered.codes is not None:
        agreement = bootstrap.mean((latents.codes == recovered.codes).double().mean(1).numpy())
    return Transfer(
        cosine=bootstrap.mean(centered_cosine(recovered.continuous, applied, applied.mean(0))),
        shuffled_cosine=bootstrap.mean(centered_cosine(recovered.continuous, other, applied.mean(0))),
        same_frame_cosine=bootstrap.mean(centered_cosine(same.continuous, applied, applied.mean(0))),
        relative_error=relative((recovered.continuous - applied).square().sum(1).numpy()),
        shuffled_relative_error=relative((recovered.continuous - other).square().sum(1).numpy()),
        retrieval=bootstrap.mean(hits),
        retrieval_chance=chance,
        code_agreement=agreement,
    )


def apply_and_encode(
    model: ProbedModel, pairs: Pairs, quantized: Tensor, destinations: np.ndarray
) -> Latents:
    """Applies latents to other pairs' first frames and encodes (first frame, prediction).

    Args:
        model: A model that decodes.
        pairs: The pairs.
        quantized: (N, D) latents to apply.
        destinations: (N,) indices of the pairs to whose frames o_t they are applied.

    Returns:
        The recovered latents, in the order of `quantized`.
    """
    parts = []
    for rows in batches(len(pairs), "Applying latents elsewhere"):
        frames = pairs.images(destinations[rows])[:, 0]
        predicted = model.decode(frames, quantized[rows]).clamp(0, 1)
        # Both at the same size: a difference in sharpness would look like a change.
        parts.append(model.encode(torch.stack([resize(frames, predicted.shape[-1]), predicted], dim=1)))
    return concatenate(parts)


def centered_cosine(first: Tensor, second: Tensor, center: Tensor) -> np.ndarray:
    """Cosine similarity of latents after subtracting their center.

    Args:
        first: (N, D).
        second: (N, D).
        center: (D,) mean latent.

    Returns:
        (N,) in [-1, 1]; 0 where a latent equals the center.
    """
    a, b = first - center, second - center
    # Rounding noise around a constant has directions too.
    floor = 1e-4 * center.norm().clamp(min=1e-6)
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=1)
    return torch.where((a.norm(dim=1) > floor) & (b.norm(dim=1) > floor), cosine, 0.0).numpy()


def _ratio(error: np.ndarray, spread: np.ndarray) -> np.ndarray:
    return np.where(spread > 1e-12, error / np.maximum(spread, 1e-12), 1.0)
