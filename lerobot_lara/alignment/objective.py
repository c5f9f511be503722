"""The alignment objective: bring a policy's hidden state and the latent action of its frame pair together.

L_align = mean over pairs of 1 - cos(P(pool(h)), z) (paper §3.2; REPA, arXiv 2410.06940), with both sides
centered: against a target that receives gradient, the plain cosine has a constant solution.

The center is the mean of the batch, of all processes together. A running mean is not enough: it lags, so that
two constants which drift the same way keep a common offset from it, and the loss goes to zero while retrieval stays
at chance.

A target that receives gradient can also be made easy. The cosine draws latent actions onto one line, where every
pair is near +1 or -1; the contrastive loss (InfoNCE, arXiv 1807.03748) does not, as a latent action has to be told from
those of the other pairs in the batch. Both reward latent actions that describe o_t, which the policy sees.

Legend: B batch, V valid pairs, N action tokens, D hidden width, Z = L * C flattened latent action.
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
        temperature: Of the contrastive loss.

    Attributes:
        num_updates: Training batches seen, for the LAM's warm-up.
        latent_width: Z, kept in checkpoints to tell whether another LAM fits.
    """

    num_updates: Tensor
    latent_width: Tensor

    def __init__(
        self,
        *,
        hidden_width: int,
        latent_width: int,
        head: str = "mlp",
        pooling: str = "mean",
        centering: bool = True,
        loss: str = "cosine",
        temperature: float = 0.1,
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
        group: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Args:
            hidden_states: (B, N, D) at the action tokens.
            latent_action: (B, L, C), or (B, Z).
            token_valid: (B, N) bool; at least one True per row. None: all valid.
            pair_valid: (B,) bool; False where the frame pair crosses the episode's end. None: all valid.
            group: (B,) int64 dataset of each sample; each is centered by its own mean, as telling datasets apart would
                else pass for alignment. None: one group.

        Returns:
            The loss (0, still in the graph, with too few valid pairs: comparing needs two), and what the
            diagnostics compare: the projected prediction and the target of this process's valid pairs, (V, Z) each,
            neither centered.
        """
        predicted = self.alignment_head(self._pool(hidden_states, token_valid)).float()  # (B, Z)
        target = latent_action.flatten(1).float()  # (B, Z)
        if pair_valid is None:
            pair_valid = torch.ones(len(predicted), dtype=torch.bool, device=predicted.device)
        self.num_updates += self.training
        loss = self._distance(
            gather(predicted), gather(target), gather(pair_valid), None if group is None else gather(group)
        )
        # A policy and a LAM that took no part in the loss get a gradient of 0, which parallel training counts on.
        loss = loss + hidden_states.sum() * 0 + latent_action.sum() * 0
        return loss, predicted[pair_valid], target[pair_valid]

    def _distance(self, predicted: Tensor, target: Tensor, valid: Tensor, group: Tensor | None) -> Tensor:
        """Mean over the valid rows of all processes."""
        predicted, target = predicted[valid], target[valid]  # (V, Z)
        compares = self.centering or self.loss == "contrastive"
        if len(predicted) < (2 if compares else 1):
            return predicted.sum() * 0
        group = None if group is None else group[valid]
        centered, comparable = center(predicted, group)
        if self.centering:
            predicted, target = centered, center(target, group)[0]
        if self.loss == "contrastive":
            distances = contrast(predicted, target, group, temperature=self.temperature)  # (V,)
        else:
            distances = 1 - F.cosine_similarity(predicted, target, dim=-1)  # (V,)
        if not compares:
            return distances.mean()
        # A sample that is alone in its group is its own mean, and its only candidate.
        return (distances * comparable).sum() / comparable.sum().clamp(min=1)

    def _pool(self, hidden_states: Tensor, valid: Tensor | None) -> Tensor:
        if valid is None:
            valid = torch.ones(hidden_states.shape[:2], dtype=torch.bool, device=hidden_states.device)
        if self.pooling == "last":
            positions = torch.arange(valid.shape[1], device=valid.device)
            last = (positions * valid).argmax(dim=1)  # (B,)
            return hidden_states[torch.arange(len(last), device=last.device), last]  # (B, D)
        weights = valid[..., None].to(hidden_states.dtype)
        return (hidden_states * weights).sum(1) / weights.sum(1).clamp(min=1)  # (B, D)


def contrast(predicted: Tensor, target: Tensor, group: Tensor | None, *, temperature: float) -> Tensor:
    """Cross-entropy of finding each row's counterpart by cosine among the rows of its group, mean of both directions.

    Args:
        predicted: (V, Z) float32.
        target: (V, Z) float32, row i belonging to row i.
        group: (V,) int64; None is one group. Others are no candidates: telling datasets apart is no alignment.
        temperature: Divides the cosines.

    Returns:
        (V,), log V at chance in one group.
    """
    with torch.autocast(predicted.device.type, enabled=False):  # in half precision the nearest candidates tie
        logits = F.normalize(predicted, dim=-1) @ F.normalize(target, dim=-1).T / temperature  # (V, V)
    if group is not None:
        logits = logits.masked_fill(group[:, None] != group, float("-inf"))
    own = torch.arange(len(logits), device=logits.device)
    found, found_back = (F.cross_entropy(side, own, reduction="none") for side in (logits, logits.T))
    return (found + found_back) / 2


def center(x: Tensor, group: Tensor | None) -> tuple[Tensor, Tensor]:
    """Subtracts the mean of each group.

    Args:
        x: (V, Z).
        group: (V,) int64; None is one group.

    Returns:
        (V, Z), and (V,) bool, False in groups of one, where nothing is left.
    """
    if group is None:
        return x - x.mean(0), torch.ones(len(x), dtype=torch.bool, device=x.device)
    _, member, count = group.unique(return_inverse=True, return_counts=True)
    sums = x.new_zeros(len(count), x.shape[1]).index_add(0, member, x)
    return x - (sums / count[:, None].to(x.dtype))[member], count[member] > 1
