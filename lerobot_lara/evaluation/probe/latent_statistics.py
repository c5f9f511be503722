"""Measures how much of the latent space is in use; needs neither actions nor predictions."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lerobot_lara.evaluation.probe.model import Latents
from lerobot_lara.lam.metrics import CodeUsage, effective_rank


@dataclass(frozen=True)
class LatentStatistics:
    """Spread of the latents and usage of the codes.

    Attributes:
        dimensions: Width D of a latent action.
        effective_rank: Number of directions in which latents vary; 0 when they are constant, at most D.
        std: Standard deviation over pairs, as a root mean square over dimensions.
        codebook_size: Number of codes; this and the following are None without a quantizer.
        codebook_perplexity: Exponential of the entropy of code usage.
        live_codes: Number of codes in use.
        dead_codes: Number of codes not in use.
    """

    dimensions: int
    effective_rank: float
    std: float
    codebook_size: int | None = None
    codebook_perplexity: float | None = None
    live_codes: int | None = None
    dead_codes: int | None = None


def measure_latents(latents: Latents, codebook_size: int | None) -> LatentStatistics:
    """Measures the latents of all pairs.

    Args:
        latents: Latents of the pairs.
        codebook_size: Number of codes, or None without a quantizer.
    """
    values = latents.continuous
    spread: dict[str, Any] = {
        "dimensions": values.shape[1],
        "effective_rank": effective_rank(values[:, None]).item(),
        "std": values.var(0).mean().sqrt().item(),
    }
    if latents.codes is None or codebook_size is None:
        return LatentStatistics(**spread)
    perplexity, live = CodeUsage(codebook_size).eval()(latents.codes)
    return LatentStatistics(
        **spread,
        codebook_size=codebook_size,
        codebook_perplexity=perplexity.item(),
        live_codes=int(live),
        dead_codes=codebook_size - int(live),
    )


def count_codes(latents: Latents, codebook_size: int) -> np.ndarray:
    """Counts the uses of each code over all pairs and tokens, (codebook_size,)."""
    assert latents.codes is not None
    return torch.bincount(latents.codes.flatten(), minlength=codebook_size).numpy()
