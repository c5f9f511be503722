"""The action head `gr00t`, the paper's (§3) and GR00T N1.5's: blocks of cross-attention and self-attention take turns.

The first, third, ... block attends to the observation only, the second, fourth, ... to the sequence
[state | action tokens] only. The flow time modulates the norm before attention (adaLN without a gate) and also enters
the action tokens, each of which is one step. The layout is that of the authors' code (github.com/lmy1001/LARA, after
github.com/NVIDIA/Isaac-GR00T); `hub/convert_reference_head.py` has the names.

Legend: B batch, T action chunk, A action dim, S state dim, D width, P projection width, M context tokens,
E embodiments.
"""

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import Timesteps
from diffusers.models.normalization import AdaLayerNorm
from torch import Tensor, nn
from torch.nn import functional as F

from lerobot_lara.dit.action_head import ActionHead
from lerobot_lara.dit.blocks import (
    EmbodimentLinear,
    EmbodimentMLP,
    FlowTimeEmbedding,
    KeyValue,
    cross_attention,
)


class AlternatingActionHead(ActionHead):
    """An action head of `AlternatingBlock`s.

    Args:
        action_dim: A, padded width that all embodiments share.
        state_dim: S; 0 when the robot reports no state.
        chunk_size: T; every step is a token.
        width: D, even.
        projection_width: P, at which states are encoded and actions decoded; None is D.
        num_layers: Number of blocks.
        num_heads: Attention heads; divides `width`.
        context_width: Width of the observation tokens.
        num_embodiments: E, rows of the per-embodiment state and action projections.
        dropout: Inside attention and MLP, and after them; in [0, 1).
        state_dropout: Share of training samples whose state is hidden, against copying the state; in [0, 1).
        ignore_context_mask: Attend to padded context tokens too, as the authors' code does.
    """

    def __init__(
        self,
        *,
        action_dim: int,
        state_dim: int,
        chunk_size: int,
        width: int,
        projection_width: int | None,
        num_layers: int,
        num_heads: int,
        context_width: int,
        num_embodiments: int,
        dropout: float,
        state_dropout: float,
        ignore_context_mask: bool,
    ) -> None:
        super().__init__(
            width=width,
            action_patch_size=1,
            state_dropout=state_dropout,
            ignore_context_mask=ignore_context_mask,
        )
        inner = projection_width or width

        def mlp(in_features: int, out_features: int) -> EmbodimentMLP:
            return EmbodimentMLP(num_embodiments, in_features, inner, out_features, activation=F.relu)

        self.state_encoder = mlp(state_dim, width) if state_dim else None
        self.action_encoder = TimedActionEncoder(num_embodiments, action_dim, width)
        self.action_decoder = mlp(inner, action_dim)
        self.positions = nn.Parameter(0.02 * torch.randn(1, chunk_size, width))
        self.time_embedding = FlowTimeEmbedding(width)
        self.blocks = nn.ModuleList(
            AlternatingBlock(
                width=width,
                num_heads=num_heads,
                context_width=context_width if i % 2 == 0 else None,
                dropout=dropout,
            )
            for i in range(num_layers)
        )
        self.output_norm = AdaLayerNorm(width, norm_eps=1e-6, chunk_dim=1)
        self.output_projection = nn.Linear(width, inner)
        # A velocity of zero is the right start: the true one, actions - noise, has a mean near zero.
        nn.init.zeros_(self.action_decoder.output.weight)

    def to_thousandths(self, timestep: Tensor) -> Tensor:
        """Scales the flow time (B,) from [0, 1] to whole thousandths."""
        return discretize(timestep)

    def embed(
        self, state_token: Tensor, actions: Tensor, thousandths: Tensor, embodiment_id: Tensor
    ) -> Tensor:
        """Builds the sequence (B, 1 + T, D); the flow time is in the action tokens too."""
        # Only actions have positions: the state is told apart by its encoder.
        action_tokens = self.action_encoder(actions, thousandths, embodiment_id) + self.positions
        return torch.cat([state_token, action_tokens], dim=1)

    def finish(self, hidden_states: Tensor, time: Tensor) -> Tensor:
        """Normalizes, modulates and projects the last block's action tokens: (B, T, D) -> (B, T, P)."""
        return self.output_projection(self.output_norm(hidden_states, temb=time))


class AlternatingBlock(nn.Module):
    """Attention, to the observation or within the sequence, then an MLP.

    Args:
        width: D.
        num_heads: Divides `width`.
        context_width: Width of the observation tokens that it attends to; None is self-attention.
        dropout: Inside attention and MLP, and after them; in [0, 1).
    """

    def __init__(self, *, width: int, num_heads: int, context_width: int | None, dropout: float) -> None:
        super().__init__()
        self.is_cross_attention = context_width is not None
        self.attention_norm = AdaLayerNorm(width, chunk_dim=1)
        if context_width is not None:
            self.attention = cross_attention(
                width=width, num_heads=num_heads, context_width=context_width, dropout=dropout
            )
        else:
            self.attention = Attention(
                query_dim=width, heads=num_heads, dim_head=width // num_heads, dropout=dropout, bias=True
            )
        # A second dropout on the same values, after attention's own, as in the reference.
        self.attention_dropout = nn.Dropout(dropout)
        self.feed_forward_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.feed_forward = FeedForward(
            width, dropout=dropout, activation_fn="gelu-approximate", final_dropout=True
        )

    @property
    def context_attention(self) -> Attention | None:
        """The attention to the observation; None in a block of self-attention."""
        return self.attention if self.is_cross_attention else None

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        context_mask: Tensor | None,
        time: Tensor,
        *,
        key_value: KeyValue | None = None,
    ) -> Tensor:
        """Applies the block.

        Args:
            x: (B, N, D) hidden states.
            context: (B, M, context_width) observation tokens, which self-attention ignores.
            context_mask: (B, M) bool, False at padding; None is all True.
            time: (B, D) from `FlowTimeEmbedding`.
            key_value: `project_context(attention, context)`, where it is known already.

        Returns:
            (B, N, D).
        """
        given = {}
        if self.is_cross_attention:
            mask = None if context_mask is None else context_mask[:, None]  # (B, 1, M)
            given = {"encoder_hidden_states": context, "attention_mask": mask, "key_value": key_value}
        x = x + self.attention_dropout(self.attention(self.attention_norm(x, temb=time), **given))
        return x + self.feed_forward(self.feed_forward_norm(x))


class TimedActionEncoder(nn.Module):
    """Projects actions, appends sinusoidal features of the flow time, and mixes both in an MLP.

    Args:
        num_embodiments: E.
        action_dim: A.
        width: D, even.
    """

    def __init__(self, num_embodiments: int, action_dim: int, width: int) -> None:
        super().__init__()
        self.projection = EmbodimentLinear(num_embodiments, action_dim, width)
        # Unlike those of `FlowTimeEmbedding`, sines come first, and the exponents end a step earlier.
        self.frequencies = Timesteps(width, flip_sin_to_cos=False, downscale_freq_shift=0)
        self.mlp = EmbodimentMLP(num_embodiments, 2 * width, width, width, activation=F.silu)

    def forward(self, actions: Tensor, thousandths: Tensor, embodiment_id: Tensor) -> Tensor:
        """Encodes the actions of every step.

        Args:
            actions: (B, T, A).
            thousandths: (B,) flow time in [0, 1000].
            embodiment_id: (B,) int64 in [0, E).

        Returns:
            (B, T, D).
        """
        projected = self.projection(actions, embodiment_id)  # (B, T, D)
        time = self.frequencies(thousandths)[:, None].expand_as(projected).to(projected.dtype)  # (B, T, D)
        return self.mlp(torch.cat([projected, time], dim=-1), embodiment_id)


def discretize(timestep: Tensor) -> Tensor:
    """Cuts the flow time, (B,) in [0, 1], down to whole thousandths: (B,) float, a whole number in [0, 1000]."""
    # A float32 time may be a rounding error below the thousandth that it stands for: 1 - 0.6 < 0.4.
    return (1000 * timestep.float() + 1e-3).trunc()
