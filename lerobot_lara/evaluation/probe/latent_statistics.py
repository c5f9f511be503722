"""How much of the latent space is in use, without any action or picture."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lerobot_lara.evaluation.figures import code_perplexity
from lerobot_lara.evaluation.probe.model import Latents
from lerobot_lara.lam.metrics import effective_rank


@dataclass(frozen=True)
class LatentStatistics:
    """Spread of the latents.

    Attributes:
        dimensions: Width D of a latent action.
        effective_rank: Directions in which latents vary; 0 when they are constant, at most D.
        std: Root mean square over dimensions of the standard deviation over pairs.
        codebook_size: Number of codes; None, as below, without a quantizer.
        codebook_perplexity: Exponential of the entropy of code usage.
        live_codes: Codes in use.
        dead_codes: Codes not in use.
    """

    dimensions: int
    effective_rank: float
    std: float
    codebook_size: int | None = None
    codebook_perplexity: float | None = None
    live_codes: int | None = None
    dead_codes: int | None = None


def measure_latents(latents: Latents, codebook_size: int | None) -> LatentStatistics:
    """Measures the latents of all pairs."""
    values = latents.continuous
    spread: dict[str, Any] = {
        "dimensions": values.shape[1],
        "effective_rank": effective_rank(values[:, None]).item(),
        "std": values.var(0).mean().sqrt().item(),
    }
    if latents.codes is None or codebook_size is None:
        return LatentStatistics(**spread)
    counts = count_codes(latents, codebook_size)
    live = int(np.count_nonzero(counts))
    return LatentStatistics(
        **spread,
        codebook_size=codebook_size,
        codebook_perplexity=code_perplexity(counts),
        live_codes=live,
        dead_codes=codebook_size - live,
    )


def count_codes(latents: Latents, codebook_size: int) -> np.ndarray:
    """Uses of each code over all pairs and tokens, (codebook_size,)."""
    assert latents.codes is not None
    return torch.bincount(latents.codes.flatten(), minlength=codebook_size).numpy()
