"""Numbers that tell an alignment from a collapse: a constant predictor scores at chance on each of them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from lerobot_lara.alignment.objective import center
from lerobot_lara.lam.metrics import effective_rank, valid_mean


@torch.no_grad()
def alignment_diagnostics(
    predicted: Tensor, target: Tensor, valid: Tensor | None = None, dataset_index: Tensor | None = None
) -> dict[str, Tensor]:
    """Compares projected hidden states with latent actions of the same batch, without waiting for the device.

    Args:
        predicted: (B, Z) projected hidden states.
        target: (B, L, C) or (B, Z) latent actions, row i belonging to row i.
        valid: (B,) bool, rows that count; None is all.
        dataset_index: (B,) int64, centered by its own mean; a row alone in its dataset has nothing to be compared with
            and is left out. None is one dataset.

    Returns:
        Scalars:
        `alignment_cosine`: mean plain cosine, in [-1, 1]; near 1 also for a constant, hence the others.
        `alignment_centered_cosine`: mean cosine after subtracting the means; 0 for a constant.
        `alignment_retrieval`: share of rows whose nearest target by centered cosine is their own; 1 / rows by
            chance.
        `latent_effective_rank`: participation ratio of the latent actions' covariance, in [0, Z]; 0 if
            constant.
        All 0 with fewer than two rows, where none is defined: processes that log together need the same keys.
    """
    target = target.flatten(1).float()  # (B, Z)
    if valid is None:
        valid = torch.ones(len(predicted), dtype=torch.bool, device=predicted.device)
    with torch.autocast(predicted.device.type, enabled=False):
        centered_predicted, counted = _directions(predicted, valid, dataset_index)
        centered_target, _ = _directions(target, valid, dataset_index)
        similarity = centered_predicted @ centered_target.T  # (B, B)
        numbers = {
            "alignment_cosine": valid_mean(F.cosine_similarity(predicted, target, dim=-1), counted),
            "alignment_centered_cosine": valid_mean(similarity.diagonal(), counted),
            "alignment_retrieval": _retrieval_accuracy(similarity, counted),
            "latent_effective_rank": effective_rank(target, counted),
        }
    enough = counted.sum() > 1
    return {name: torch.where(enough, value.float(), 0) for name, value in numbers.items()}


def _retrieval_accuracy(similarity: Tensor, counted: Tensor) -> Tensor:
    """Share of rows whose best column is the diagonal; a row of ties counts 1 / (number of tied columns)."""
    similarity = similarity.masked_fill(~counted, float("-inf"))  # columns that are no candidates
    best = similarity.max(dim=1, keepdim=True).values
    tied = (similarity >= best - 1e-6) & counted  # (B, B)
    return valid_mean(tied.diagonal().float() / tied.sum(1).clamp(min=1), counted)


def _directions(x: Tensor, valid: Tensor, dataset_index: Tensor | None) -> tuple[Tensor, Tensor]:
    """Centered rows of unit length, (B, Z), and which of them count, (B,) bool."""
    # In double precision where the device has it: the mean of a constant should leave nothing.
    x = x.to(torch.float32 if x.device.type == "mps" else torch.float64)
    centered, counted = center(x, valid, dataset_index)
    # What rounding leaves of a constant is no direction to compare.
    size = (x.abs() * counted[:, None]).amax().clamp(min=1e-12)
    return F.normalize(torch.where(centered.abs() <= 1e-6 * size, 0, centered), dim=-1), counted
