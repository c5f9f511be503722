"""The alignment objective: bring a policy's hidden state and the latent action of its frame pair together.

L_align = mean over pairs of 1 - cos(P(pool(h)), z) (paper §3.2; REPA, arXiv 2410.06940), with both sides
centered: against a target that receives gradient, the plain cosine has a constant solution.

The center is the mean of the batch, of all processes together. A running mean is not enough: it lags, so that
two constants which drift the same way keep a common offset from it, and the loss goes to zero while retrieval stays
at chance.

A target that receives gradient can also be made easy. The cosine draws latent actions onto one line, where every
pair is near +1 or -1; the contrastive loss (InfoNCE, arXiv 1807.03748) does not, as a latent action has to be told from
those of the other pairs in the batch. Both reward latent actions that describe o_t, which the policy sees.

Legend: B batch, N action tokens, D hidden width, Z = L * C flattened latent action. Pairs that do not count have a
weight of 0: picking them out would make the host wait for the device.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lerobot_lara.training.distributed import gather


class LatentAlignment(nn.Module):
    """Projects pooled hidden states and compares them with latent actions.

    Args:
        hidden_width: D.
        latent_width: Z.
        head: "mlp" (two hidden layers) or "linear".
        pooling: "mean" over valid tokens, or "last" token.
        centering: Subtract the batch means of both sides; False is the reference's plain cosine.
        loss: "cosine", or "contrastive" over the pairs of the batch, in both directions.
        temperature: Divides the cosines of the contrastive loss; above 0.

    Attributes:
        num_updates: Optimizer steps taken, for the LAM's warm-up; its owner counts.
        latent_width: Z, kept in checkpoints to tell whether another LAM fits.
    """

    num_updates: Tensor
    latent_width: Tensor

    def __init__(
        self,
        *,
        hidden_width: int,
        latent_width: int,
        head: str,
        pooling: str,
        centering: bool,
        loss: str,
        temperature: float,
    ) -> None:
        super().__init__()
        self.loss = loss
        self.temperature = temperature
        self.pooling = pooling
        self.centering = centering
        self.alignment_head: nn.Module
        if head == "linear":
            self.alignment_head = nn.Linear(hidden_width, latent_width)
        else:
            self.alignment_head = nn.Sequential(
                nn.LayerNorm(hidden_width),
                nn.Linear(hidden_width, hidden_width),
                nn.SiLU(),
                nn.Linear(hidden_width, hidden_width),
                nn.SiLU(),
                nn.Linear(hidden_width, latent_width),
            )
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.long))
        self.register_buffer("latent_width", torch.tensor(latent_width))

    def forward(
        self,
        hidden_states: Tensor,
        latent_action: Tensor,
        *,
        token_valid: Tensor | None = None,
        pair_valid: Tensor | None = None,
        dataset_index: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compares the hidden states of a batch with the latent actions of its frame pairs.

        Args:
            hidden_states: (B, N, D) at the action tokens.
            latent_action: (B, L, C), or (B, Z).
            token_valid: (B, N) bool; at least one True per row. None: all valid.
            pair_valid: (B,) bool; False where the frame pair crosses the episode's end. None: all valid.
            dataset_index: (B,) int64; each dataset is centered by its own mean, as telling datasets apart would else
                pass for alignment. None: one dataset.

        Returns:
            The loss (0, still in the graph, with too few valid pairs: comparing needs two), and the projected hidden
            states (B, Z) float32, not centered.
        """
        # A base may run in half precision where the head does not, in which a mean over many tokens loses digits.
        dtype = next((parameter.dtype for parameter in self.alignment_head.parameters()), hidden_states.dtype)
        hidden_states = hidden_states.to(dtype)
        pooled = self._pool(hidden_states, token_valid)  # (B, D)
        predicted = self.alignment_head(pooled).float()  # (B, Z)
        target = latent_action.flatten(1).float()  # (B, Z)
        if pair_valid is None:
            pair_valid = torch.ones(len(predicted), dtype=torch.bool, device=predicted.device)
        with torch.autocast(
            predicted.device.type, enabled=False
        ):  # in half precision means drift and cosines tie
            loss = self._distance(
                gather(predicted),
                gather(target),
                gather(pair_valid),
                None if dataset_index is None else gather(dataset_index),
            )
        # A policy and a LAM that took no part in the loss get a gradient of 0, which parallel training counts on.
        return loss + hidden_states.sum() * 0 + latent_action.sum() * 0, predicted

    def _distance(
        self, predicted: Tensor, target: Tensor, valid: Tensor, dataset_index: Tensor | None
    ) -> Tensor:
        """Mean over the valid rows of all processes."""
        centered, comparable = center(predicted, valid, dataset_index)
        if self.centering:
            predicted, target = centered, center(target, valid, dataset_index)[0]
        if self.loss == "contrastive":
            distances = contrast(
                predicted, target, valid, dataset_index, temperature=self.temperature
            )  # (B,)
        else:
            distances = 1 - F.cosine_similarity(predicted, target, dim=-1)  # (B,)
        # A sample that is alone in its dataset is its own mean, and its only candidate.
        counted = comparable if self.centering or self.loss == "contrastive" else valid
        return (distances * counted).sum() / counted.sum().clamp(min=1)

    def _pool(self, hidden_states: Tensor, valid: Tensor | None) -> Tensor:
        if valid is None:
            valid = torch.ones(hidden_states.shape[:2], dtype=torch.bool, device=hidden_states.device)
        if self.pooling == "last":
            positions = torch.arange(valid.shape[1], device=valid.device)
            last = (positions * valid).argmax(dim=1)  # (B,)
            return hidden_states[torch.arange(len(last), device=last.device), last]  # (B, D)
        weights = valid[..., None].to(hidden_states.dtype)
        return (hidden_states * weights).sum(1) / weights.sum(1).clamp(min=1)  # (B, D)


def contrast(
    predicted: Tensor, target: Tensor, valid: Tensor, dataset_index: Tensor | None, *, temperature: float
) -> Tensor:
    """Cross-entropy of finding each row's counterpart by cosine among those of its dataset, mean of both directions.

    Args:
        predicted: (B, Z) float32.
        target: (B, Z) float32, row i belonging to row i.
        valid: (B,) bool; other rows are no candidates, and their own result has no meaning.
        dataset_index: (B,) int64; None is one dataset. Other datasets are no candidates: telling them apart is no
            alignment.
        temperature: Divides the cosines.

    Returns:
        (B,), log V at chance among V valid rows of one dataset.
    """
    logits = F.normalize(predicted, dim=-1) @ F.normalize(target, dim=-1).T / temperature  # (B, B)
    own = torch.arange(len(logits), device=logits.device)
    candidates = same_dataset(valid, dataset_index) | (own[:, None] == own)  # (B, B)
    logits, logits_back = (side.masked_fill(~candidates, float("-inf")) for side in (logits, logits.T))
    found, found_back = (F.cross_entropy(side, own, reduction="none") for side in (logits, logits_back))
    return (found + found_back) / 2


def center(x: Tensor, valid: Tensor, dataset_index: Tensor | None) -> tuple[Tensor, Tensor]:
    """Subtracts from each row the mean of its dataset's valid rows.

    Args:
        x: (B, Z).
        valid: (B,) bool.
        dataset_index: (B,) int64; None is one dataset.

    Returns:
        (B, Z), and (B,) bool: the valid rows that are not alone in their dataset, where something is left.
    """
    if dataset_index is None:
        count = valid.sum()
        return x - (x * valid[:, None]).sum(0) / count.clamp(min=1), valid & (count > 1)
    # Rows are added up at the first row of their dataset. A matrix product would be shorter, but on a GPU it may round
    # to TF32, which leaves more of a common offset than what tells a collapsed alignment from a good one.
    first = (dataset_index[:, None] == dataset_index).int().argmax(dim=1)  # (B,)
    sums = torch.zeros_like(x).index_add(0, first, x * valid[:, None])
    count = torch.zeros_like(x[:, 0]).index_add(0, first, valid.to(x.dtype))[first]  # (B,)
    return x - sums[first] / count.clamp(min=1)[:, None], valid & (count > 1)


def same_dataset(valid: Tensor, dataset_index: Tensor | None) -> Tensor:
    """(B, B) bool, True where column j is valid and of row i's dataset."""
    if dataset_index is None:
        return valid.expand(len(valid), -1)
    return (dataset_index[:, None] == dataset_index) & valid
