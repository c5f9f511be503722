"""The diffusion transformer's building blocks (DiT, arXiv 2212.09748; attention and MLP are diffusers' own).

Legend: B batch, N tokens, M context tokens, D width, E embodiments.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn
from torch.nn import functional as F


class FlowTimeEmbedding(nn.Module):
    """Sinusoidal features of the flow time, then a two-layer MLP: (B,) in thousandths, [0, 1000] -> (B, D).

    The frequencies are made for step counts, so the unit interval is spread over 1000 of them.
    """

    def __init__(self, width: int, num_frequencies: int = 128) -> None:
        super().__init__()
        self.frequencies = Timesteps(2 * num_frequencies, flip_sin_to_cos=True, downscale_freq_shift=1)
        self.mlp = TimestepEmbedding(2 * num_frequencies, width)

    def forward(self, thousandths: Tensor) -> Tensor:
        features = self.frequencies(thousandths)  # (B, 2F)
        return self.mlp(features.to(self.mlp.linear_1.weight.dtype))  # (B, D)


class DiTBlock(nn.Module):
    """Self-attention, cross-attention to the observation, MLP; each shifted, scaled and gated by the flow
    time.

    The modulation starts at zero (adaLN-Zero), so a fresh block is the identity.
    """

    def __init__(
        self, *, width: int, num_heads: int, context_width: int, mlp_ratio: int = 4, dropout: float = 0.0
    ) -> None:
        super().__init__()
        heads: dict[str, Any] = {"heads": num_heads, "dim_head": width // num_heads, "dropout": dropout}
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(3))
        self.self_attention = Attention(query_dim=width, bias=True, **heads)
        self.cross_attention = Attention(
            query_dim=width, cross_attention_dim=context_width, bias=True, **heads
        )
        self.feed_forward = FeedForward(
            width, mult=mlp_ratio, dropout=dropout, activation_fn="gelu-approximate", final_dropout=False
        )
        self.modulation = nn.Linear(width, 9 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, hidden_states: Tensor, context: Tensor, context_mask: Tensor, time: Tensor) -> Tensor:
        """Args:
            hidden_states: (B, N, D).
            context: (B, M, context_width) observation tokens.
            context_mask: (B, M) bool, False at padding.
            time: (B, D) from `FlowTimeEmbedding`.

        Returns:
            (B, N, D).
        """
        modulation = self.modulation(F.silu(time)).unflatten(-1, (3, 3, -1))[
            ..., None, :
        ]  # (B, sublayer, 3, 1, D)
        sublayers: tuple[Callable[[Tensor], Tensor], ...] = (
            self.self_attention,
            lambda x: self.cross_attention(
                x, encoder_hidden_states=context, attention_mask=context_mask[:, None, :]
            ),
            self.feed_forward,
        )
        for i, sublayer in enumerate(sublayers):
            shift, scale, gate = modulation[:, i].unbind(1)  # (B, 1, D) each
            normed = self.norms[i](hidden_states) * (1 + scale) + shift
            hidden_states = hidden_states + gate * sublayer(normed)
        return hidden_states


def key_value_projections(attentions: Iterable[Any]) -> list[nn.Module]:
    """The layers of attentions that turn context tokens into keys and values."""
    return [layer for attention in attentions for layer in (attention.to_k, attention.to_v)]


class EmbodimentLinear(nn.Module):
    """One linear layer per embodiment, stored as one batched weight (GR00T's category-specific layer)."""

    def __init__(self, num_embodiments: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_embodiments, in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(num_embodiments, out_features))
        nn.init.normal_(self.weight, std=in_features**-0.5)

    def forward(self, x: Tensor, embodiment_id: Tensor) -> Tensor:
        """Args:
            x: (B, N, in_features).
            embodiment_id: (B,) int64 in [0, E).

        Returns:
            (B, N, out_features).
        """
        return torch.baddbmm(self.bias[embodiment_id][:, None], x, self.weight[embodiment_id])


class EmbodimentMLP(nn.Module):
    """Linear, activation, linear, with weights of its own for every embodiment."""

    def __init__(
        self,
        num_embodiments: int,
        in_features: int,
        hidden: int,
        out_features: int,
        activation: Callable[[Tensor], Tensor] = F.silu,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.input = EmbodimentLinear(num_embodiments, in_features, hidden)
        self.output = EmbodimentLinear(num_embodiments, hidden, out_features)

    def forward(self, x: Tensor, embodiment_id: Tensor) -> Tensor:
        """(B, N, in_features), (B,) -> (B, N, out_features)."""
        return self.output(self.activation(self.input(x, embodiment_id)), embodiment_id)


def encode_state(
    state: Tensor | None,
    embodiment_id: Tensor,
    *,
    encoder: EmbodimentMLP | None,
    null_state: Tensor,
    valid: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """The state token; where the state is missing or hidden, the learned null state.

    Args:
        state: (B, S), normalized, or None.
        embodiment_id: (B,) int64.
        encoder: None for a robot that reports no state.
        null_state: (1, 1, D).
        valid: (B,) bool, False where the state is missing; None is all True.
        dropout: Share of samples whose state is hidden, in [0, 1).

    Returns:
        (B, 1, D).
    """
    null_token = null_state.expand(len(embodiment_id), -1, -1)
    if encoder is None or state is None:
        return null_token
    keep = torch.ones_like(embodiment_id, dtype=torch.bool) if valid is None else valid
    if dropout > 0:
        keep = keep & (torch.rand(len(keep), device=keep.device) >= dropout)
    token = encoder(state[:, None], embodiment_id)  # (B, 1, D)
    return torch.where(keep[:, None, None], token, null_token.to(token.dtype))
