"""Numbers that tell an alignment from a collapse: a constant predictor scores at chance on each of them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from lerobot_lara.alignment.objective import center
from lerobot_lara.lam.metrics import effective_rank

NAMES = ("alignment_cosine", "alignment_centered_cosine", "alignment_retrieval", "latent_effective_rank")


@torch.no_grad()
def alignment_diagnostics(predicted: Tensor, target: Tensor, group: Tensor | None = None) -> dict[str, float]:
    """Compares projected hidden states with latent actions of the same batch.

    Args:
        predicted: (V, Z) projected hidden states.
        target: (V, Z) latent actions, row i belonging to row i.
        group: (V,) int64 dataset of each row, centered by its own mean; a row alone in its group has nothing to be
            compared with and is left out. None is one group.

    Returns:
        `alignment_cosine`: mean plain cosine, in [-1, 1]; near 1 also for a constant, hence the others.
        `alignment_centered_cosine`: mean cosine after subtracting the means; 0 for a constant.
        `alignment_retrieval`: share of rows whose nearest target by centered cosine is their own; 1 / V by
            chance.
        `latent_effective_rank`: participation ratio of the latent actions' covariance, in [0, Z]; 0 if
            constant.
        All 0 with fewer than two rows, where none is defined: processes that log together need the same keys.
    """
    if group is not None:
        _, comparable = center(target, group)
        predicted, target, group = predicted[comparable], target[comparable], group[comparable]
    if len(predicted) < 2:
        return dict.fromkeys(NAMES, 0.0)
    centered_predicted = F.normalize(_center(predicted, group), dim=-1)
    centered_target = F.normalize(_center(target, group), dim=-1)
    similarity = centered_predicted @ centered_target.T  # (V, V)
    return {
        "alignment_cosine": F.cosine_similarity(predicted, target, dim=-1).mean().item(),
        "alignment_centered_cosine": similarity.diagonal().mean().item(),
        "alignment_retrieval": _retrieval_accuracy(similarity),
        "latent_effective_rank": effective_rank(target).item(),
    }


def _retrieval_accuracy(similarity: Tensor) -> float:
    """Share of rows whose best column is the diagonal; a row of ties counts 1 / (number of tied columns)."""
    best = similarity.max(dim=1, keepdim=True).values
    tied = similarity >= best - 1e-6  # (V, V)
    return (tied.diagonal().float() / tied.sum(1)).mean().item()


def _center(x: Tensor, group: Tensor | None) -> Tensor:
    x = x.cpu().double()  # few numbers, and not every device has doubles
    centered, _ = center(x, None if group is None else group.cpu())
    # What rounding leaves of a constant is no direction to compare.
    return torch.where(
        centered.abs() <= 1e-6 * x.abs().amax().clamp(min=1e-12), torch.zeros_like(centered), centered
    )
