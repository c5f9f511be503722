"""Does a latent action mean the same elsewhere? That of pair A is applied to a frame of another episode.

Cycle consistency: the model then looks at (frame B, its own prediction) and should recover the latent that was applied.
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
from lerobot_lara.evaluation.probe.encoding import batches
from lerobot_lara.evaluation.probe.model import Latents, ProbedModel


@dataclass(frozen=True)
class Transfer:
    """Cycle consistency over all pairs; latents are centered by their mean.

    Attributes:
        cosine: Mean cosine of recovered and applied latent, in [-1, 1]; 0 for constant latents.
        shuffled_cosine: The same with a latent that was not applied.
        same_frame_cosine: The same as `cosine` where the latent is applied to its own frame: what transfer could reach.
        relative_error: Squared error of the recovered latent, divided by the latents' variance; 1 for their mean.
        shuffled_relative_error: The same with a latent that was not applied.
        retrieval: How often the recovered latent is nearest to the applied one among 32.
        retrieval_chance: The same of a constant.
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
    """Applies each pair's latent to its partner's frame o_t.

    Args:
        model: One that decodes.
        pairs: The pairs.
        latents: Theirs.
        partners: (N,) pair of another episode for each.
        bootstrap: Of the pairs' episodes.
        seed: Of the retrieval's batches.
    """
    applied = latents.continuous
    recovered = apply_and_encode(model, pairs, latents.quantized, partners)
    same = apply_and_encode(model, pairs, latents.quantized, np.arange(len(pairs)))
    other = applied[partners]
    spread = (applied - applied.mean(0)).square().sum(1).numpy()

    def relative(error: np.ndarray) -> Estimate:
        # Constant latents are no better recovered than their mean.
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


def apply_and_encode(model: ProbedModel, pairs: Pairs, quantized: Tensor, targets: np.ndarray) -> Latents:
    """Latents that the model finds in (frame o_t of pair `targets[i]`, its prediction with `quantized[i]`).

    Args:
        model: One that decodes.
        pairs: The pairs.
        quantized: (N, D).
        targets: (N,) indices of pairs.
    """
    parts = []
    for rows in batches(len(pairs), "Applying latents elsewhere"):
        frames = pairs.images(targets[rows])[:, 0]
        predicted = model.decode(frames, quantized[rows]).clamp(0, 1)
        # At one size, so that the coarser of the two does not look like a change.
        parts.append(model.encode(torch.stack([resize(frames, predicted.shape[-1]), predicted], dim=1)))
    codes = [part.codes for part in parts if part.codes is not None]
    return Latents(
        torch.cat([part.continuous for part in parts]),
        torch.cat([part.quantized for part in parts]),
        torch.cat(codes) if codes else None,
    )


def centered_cosine(first: Tensor, second: Tensor, center: Tensor) -> np.ndarray:
    """Cosine (N,) of latents (N, D) after subtraction of a mean (D,); 0 where one is that mean."""
    a, b = first - center, second - center
    # Rounding noise about a constant has directions too.
    floor = 1e-4 * center.norm().clamp(min=1e-6)
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=1)
    return torch.where((a.norm(dim=1) > floor) & (b.norm(dim=1) > floor), cosine, 0.0).numpy()


def _ratio(error: np.ndarray, spread: np.ndarray) -> np.ndarray:
    return np.where(spread > 1e-12, error / np.maximum(spread, 1e-12), 1.0)
