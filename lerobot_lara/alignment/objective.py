"""The alignment objective: bring a policy's hidden state and the latent action of its frame pair together.

L_align = mean over pairs of 1 - cos(P(pool(h)), z) (paper §3.2; REPA, arXiv 2410.06940), with both sides
centred: against a target that receives gradient, the plain cosine has a constant solution.

Legend: B batch, N action tokens, D hidden width, Z = L * C flattened latent action.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F


class LatentAlignment(nn.Module):
    """Projects pooled hidden states and compares them with latent actions.

    Args:
        hidden_width: D.
        latent_width: Z.
        head: "mlp" (two hidden layers) or "linear".
        pooling: "mean" over valid tokens, or "last" token.
        centring: Subtract running means of both sides.
        momentum: Share of the running mean kept at each update.
    """

    predicted_mean: Tensor
    target_mean: Tensor
    num_updates: Tensor

    def __init__(
        self,
        *,
        hidden_width: int,
        latent_width: int,
        head: str = "mlp",
        pooling: str = "mean",
        centring: bool = True,
        momentum: float = 0.95,
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.centring = centring
        self.momentum = momentum
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
        self.register_buffer("predicted_mean", torch.zeros(latent_width))
        self.register_buffer("target_mean", torch.zeros(latent_width))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.long))

    def forward(
        self,
        hidden_states: Tensor,
        latent_action: Tensor,
        *,
        token_valid: Tensor | None = None,
        pair_valid: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Args:
            hidden_states: (B, N, D) at the action tokens.
            latent_action: (B, L, C), or (B, Z).
            token_valid: (B, N) bool; at least one True per row. None: all valid.
            pair_valid: (B,) bool; False where the frame pair crosses the episode's end. None: all valid.

        Returns:
            The loss (0, still in the graph, when no pair is valid), and what the diagnostics compare: the
            projected prediction and the target of the valid pairs, (V, Z) each, neither centred.
        """
        predicted = self.alignment_head(self._pool(hidden_states, token_valid)).float()  # (B, Z)
        target = latent_action.flatten(1).float()  # (B, Z)
        if pair_valid is not None:
            predicted, target = predicted[pair_valid], target[pair_valid]  # (V, Z)
        if self.training:
            self._update_means(predicted.detach(), target.detach())
        if len(predicted) == 0:
            return hidden_states.sum() * 0 + latent_action.sum() * 0, predicted, target
        centred = (predicted, target)
        if self.centring:
            centred = (predicted - self.predicted_mean, target - self.target_mean)
        loss = (1 - F.cosine_similarity(*centred, dim=-1)).mean()
        return loss, predicted, target

    def _pool(self, hidden_states: Tensor, valid: Tensor | None) -> Tensor:
        if valid is None:
            valid = torch.ones(hidden_states.shape[:2], dtype=torch.bool, device=hidden_states.device)
        if self.pooling == "last":
            positions = torch.arange(valid.shape[1], device=valid.device)
            last = (positions * valid).argmax(dim=1)  # (B,)
            return hidden_states[torch.arange(len(last), device=last.device), last]  # (B, D)
        weights = valid[..., None].to(hidden_states.dtype)
        return (hidden_states * weights).sum(1) / weights.sum(1).clamp(min=1)  # (B, D)

    @torch.no_grad()
    def _update_means(self, predicted: Tensor, target: Tensor) -> None:
        """Moves the running means toward this batch's, over all ranks; the first batch sets them."""
        count = torch.tensor([float(len(predicted))], device=predicted.device)
        sums = torch.cat([predicted.sum(0), target.sum(0), count])  # (2 Z + 1,)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        if sums[-1] == 0:
            return
        predicted_mean, target_mean = (sums[:-1] / sums[-1]).chunk(2)
        momentum = self.momentum if self.num_updates > 0 else 0.0
        self.predicted_mean.lerp_(predicted_mean, 1 - momentum)
        self.target_mean.lerp_(target_mean, 1 - momentum)
        self.num_updates += 1
