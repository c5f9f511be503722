"""Building blocks that both patterns of the action head share (attention and MLPs are diffusers' own).

Legend: B batch, N tokens, M context tokens, D width, H attention heads, S state dim, E embodiments.
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn
from torch.nn import functional as F

# Of `FlowTimeEmbedding`, as in DiT and GR00T.
NUM_FREQUENCIES = 128


class FlowTimeEmbedding(nn.Module):
    """Sinusoidal features of the flow time, then a two-layer MLP.

    The frequencies are made for step counts, so the unit interval is spread over 1000 of them.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frequencies = Timesteps(2 * NUM_FREQUENCIES, flip_sin_to_cos=True, downscale_freq_shift=1)
        self.mlp = TimestepEmbedding(2 * NUM_FREQUENCIES, width)

    def forward(self, thousandths: Tensor) -> Tensor:
        """Embeds the flow time: (B,) in [0, 1000] -> (B, D)."""
        features = self.frequencies(thousandths)  # (B, 2 * NUM_FREQUENCIES)
        return self.mlp(features.to(self.mlp.linear_1.weight.dtype))  # (B, D)


# Keys and values of the observation, (B, H, M, D / H) each.
KeyValue = tuple[Tensor, Tensor]


class ContextAttentionProcessor:
    """Computes diffusers' `Attention` to the observation, with keys and values that may be known already.

    The steps of a flow see the same observation, whose projections to keys and values cost more than all else. The
    result is that of diffusers' default processor, whose interface this is.
    """

    def __call__(
        self,
        attention: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None,
        key_value: KeyValue | None = None,
    ) -> Tensor:
        """Attends to the observation.

        Args:
            attention: Holds the weights.
            hidden_states: (B, N, D) queries.
            encoder_hidden_states: (B, M, context_width) observation tokens.
            attention_mask: (B, 1, M) bool, False at padding; None is all True.
            key_value: `project_context(attention, encoder_hidden_states)`, where it is known already.

        Returns:
            (B, N, D).
        """
        key, value = key_value or project_context(attention, encoder_hidden_states)
        query = _split_heads(attention.to_q(hidden_states), attention.heads)  # (B, H, N, D / H)
        mask = None if attention_mask is None else attention_mask[:, None]  # (B, 1, 1, M)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)  # (B, H, N, D / H)
        output, dropout = attention.to_out
        return dropout(output(mixed.transpose(1, 2).flatten(2)))


def cross_attention(*, width: int, num_heads: int, context_width: int, dropout: float) -> Attention:
    """Builds an attention to the observation.

    Args:
        width: D.
        num_heads: H; divides `width`.
        context_width: Width of the observation tokens.
        dropout: Of its output, in [0, 1).

    Returns:
        diffusers' `Attention`, whose forward also takes `key_value`.
    """
    processor: Any = ContextAttentionProcessor()
    return Attention(
        query_dim=width,
        cross_attention_dim=context_width,
        heads=num_heads,
        dim_head=width // num_heads,
        dropout=dropout,
        bias=True,
        processor=processor,
    )


def project_context(attention: Attention, context: Tensor) -> KeyValue:
    """Computes the keys and values of observation tokens (B, M, context_width): (B, H, M, D / H) each."""
    key, value = attention.to_k(context), attention.to_v(context)  # (B, M, D) each
    return _split_heads(key, attention.heads), _split_heads(value, attention.heads)


def _split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, N, D) -> (B, H, N, D / H)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


class EmbodimentLinear(nn.Module):
    """One linear layer per embodiment, stored as one batched weight (GR00T's category-specific layer).

    Args:
        num_embodiments: E.
        in_features: Width of the input.
        out_features: Width of the output.
    """

    def __init__(self, num_embodiments: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_embodiments, in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(num_embodiments, out_features))
        nn.init.normal_(self.weight, std=in_features**-0.5)

    def forward(self, x: Tensor, embodiment_id: Tensor) -> Tensor:
        """Applies each sample's layer.

        Args:
            x: (B, N, in_features).
            embodiment_id: (B,) int64 in [0, E).

        Returns:
            (B, N, out_features).
        """
        return torch.baddbmm(self.bias[embodiment_id][:, None], x, self.weight[embodiment_id])


class EmbodimentMLP(nn.Module):
    """Linear, activation, linear, with its own weights for every embodiment.

    Args:
        num_embodiments: E.
        in_features: Width of the input.
        hidden: Width in between.
        out_features: Width of the output.
        activation: Between the layers.
    """

    def __init__(
        self,
        num_embodiments: int,
        in_features: int,
        hidden: int,
        out_features: int,
        *,
        activation: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.activation = activation
        self.input = EmbodimentLinear(num_embodiments, in_features, hidden)
        self.output = EmbodimentLinear(num_embodiments, hidden, out_features)

    def forward(self, x: Tensor, embodiment_id: Tensor) -> Tensor:
        """Applies each sample's MLP: (B, N, in_features), (B,) int64 in [0, E) -> (B, N, out_features)."""
        return self.output(self.activation(self.input(x, embodiment_id)), embodiment_id)


def encode_state(
    state: Tensor | None,
    embodiment_id: Tensor,
    *,
    encoder: EmbodimentMLP | None,
    null_state: Tensor,
    valid: Tensor | None,
    dropout: float,
) -> Tensor:
    """Computes the state token; where the state is missing or hidden, it is the learned null state.

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
