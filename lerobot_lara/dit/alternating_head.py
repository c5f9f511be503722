"""The paper's action head (§3), that of GR00T N1.5: blocks of cross-attention and self-attention take turns.

It does what `lerobot_lara.dit.action_head` does, with other blocks: the first, third, ... block attends to the
observation only, the second, fourth, ... to the sequence [state | action tokens] only; the flow time modulates the
norm before attention (adaLN without a gate) and also enters the action tokens. The layout is that of the authors'
code (github.com/lmy1001/LARA, after github.com/NVIDIA/Isaac-GR00T); `hub/convert_reference_head.py` has the names.

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

from lerobot_lara.dit.blocks import (
    EmbodimentLinear,
    EmbodimentMLP,
    FlowTimeEmbedding,
    encode_state,
    key_value_projections,
)


class AlternatingActionHead(nn.Module):
    """Predicts the velocity of a noisy action chunk; interchangeable with `FlowMatchingActionHead`.

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
        dropout: Inside attention and MLP, and after them.
        state_dropout: Share of training samples whose state is hidden, against copying the state.
        ignore_context_mask: Attend to padded context tokens too, as the authors' code does.
    """

    def __init__(
        self,
        *,
        action_dim: int,
        state_dim: int,
        chunk_size: int,
        width: int = 256,
        projection_width: int | None = None,
        num_layers: int = 6,
        num_heads: int = 8,
        context_width: int = 256,
        num_embodiments: int = 1,
        dropout: float = 0.0,
        state_dropout: float = 0.0,
        ignore_context_mask: bool = False,
    ) -> None:
        super().__init__()
        inner = projection_width or width
        self.state_dropout = state_dropout
        self.ignore_context_mask = ignore_context_mask
        self.null_state = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.state_encoder = (
            EmbodimentMLP(num_embodiments, state_dim, inner, width, activation=F.relu) if state_dim else None
        )
        self.action_encoder = TimedActionEncoder(num_embodiments, action_dim, width)
        self.action_decoder = EmbodimentMLP(num_embodiments, inner, inner, action_dim, activation=F.relu)
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
        # A velocity of zero is the right start: its target, actions - noise, has mean near zero.
        nn.init.zeros_(self.action_decoder.output.weight)

    def forward(
        self,
        noisy_actions: Tensor,
        timestep: Tensor,
        *,
        state: Tensor | None,
        context: Tensor,
        context_mask: Tensor,
        embodiment_id: Tensor,
        state_valid: Tensor | None = None,
    ) -> Tensor:
        """One velocity prediction.

        Args:
            noisy_actions: (B, T, A), normalized.
            timestep: (B,) flow time in [0, 1].
            state: (B, S), normalized, or None.
            context: (B, M, context_width) observation tokens.
            context_mask: (B, M) bool, False at padding.
            embodiment_id: (B,) int64.
            state_valid: (B,) bool; False puts the learned null state in the state's place.

        Returns:
            (B, T, A) velocity.
        """
        thousandths = discretize(timestep)  # (B,)
        state_token = encode_state(
            state,
            embodiment_id,
            encoder=self.state_encoder,
            null_state=self.null_state,
            valid=state_valid,
            dropout=self.state_dropout if self.training else 0.0,
        )  # (B, 1, D)
        # Positions are the actions' own: the state is told apart by its encoder.
        action_tokens = self.action_encoder(noisy_actions, thousandths, embodiment_id) + self.positions
        hidden_states = torch.cat([state_token, action_tokens], dim=1)  # (B, 1 + T, D)
        time = self.time_embedding(thousandths)  # (B, D)
        mask = None if self.ignore_context_mask else context_mask
        for block in self.blocks:
            hidden_states = block(hidden_states, context, mask, time)
        output = self.output_projection(self.output_norm(hidden_states[:, 1:], temb=time))  # (B, T, P)
        return self.action_decoder(output, embodiment_id)  # (B, T, A)

    def context_projections(self) -> list[nn.Module]:
        """What turns context tokens into keys and values; the same in all steps of a flow."""
        return key_value_projections([block.attention for block in self.blocks if block.is_cross_attention])


class AlternatingBlock(nn.Module):
    """Attention, to the observation or within the sequence, then an MLP.

    Args:
        width: D.
        num_heads: Divides `width`.
        context_width: Width of the observation tokens it attends to; None is self-attention.
        dropout: In [0, 1).
    """

    def __init__(
        self, *, width: int, num_heads: int, context_width: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.is_cross_attention = context_width is not None
        self.attention_norm = AdaLayerNorm(width, chunk_dim=1)
        self.attention = Attention(
            query_dim=width,
            cross_attention_dim=context_width,
            heads=num_heads,
            dim_head=width // num_heads,
            dropout=dropout,
            bias=True,
        )
        # The second dropout on the same values, after attention's own: so does the reference.
        self.attention_dropout = nn.Dropout(dropout)
        self.feed_forward_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.feed_forward = FeedForward(
            width, dropout=dropout, activation_fn="gelu-approximate", final_dropout=True
        )

    def forward(
        self, hidden_states: Tensor, context: Tensor, context_mask: Tensor | None, time: Tensor
    ) -> Tensor:
        """Args:
            hidden_states: (B, N, D).
            context: (B, M, context_width) observation tokens; self-attention leaves them aside.
            context_mask: (B, M) bool, False at padding; None is all True.
            time: (B, D) from `FlowTimeEmbedding`.

        Returns:
            (B, N, D).
        """
        attended_to = {}
        if self.is_cross_attention:
            mask = None if context_mask is None else context_mask[:, None]  # (B, 1, M)
            attended_to = {"encoder_hidden_states": context, "attention_mask": mask}
        attended = self.attention(self.attention_norm(hidden_states, temb=time), **attended_to)
        hidden_states = hidden_states + self.attention_dropout(attended)
        return hidden_states + self.feed_forward(self.feed_forward_norm(hidden_states))


class TimedActionEncoder(nn.Module):
    """Projects actions, joins them with sinusoidal features of the flow time, and mixes both in an MLP."""

    def __init__(self, num_embodiments: int, action_dim: int, width: int) -> None:
        super().__init__()
        self.projection = EmbodimentLinear(num_embodiments, action_dim, width)
        # Not those of `FlowTimeEmbedding`: sines come first, and the exponents end a step earlier.
        self.frequencies = Timesteps(width, flip_sin_to_cos=False, downscale_freq_shift=0)
        self.mlp = EmbodimentMLP(num_embodiments, 2 * width, width, width)

    def forward(self, actions: Tensor, thousandths: Tensor, embodiment_id: Tensor) -> Tensor:
        """Args:
            actions: (B, T, A).
            thousandths: (B,) flow time in [0, 1000].
            embodiment_id: (B,) int64 in [0, E).

        Returns:
            (B, T, D).
        """
        projected = self.projection(actions, embodiment_id)  # (B, T, D)
        time = self.frequencies(thousandths)[:, None].expand_as(projected).to(projected.dtype)
        return self.mlp(torch.cat([projected, time], dim=-1), embodiment_id)


def discretize(timestep: Tensor) -> Tensor:
    """Cuts the flow time, (B,) in [0, 1], down to whole thousandths: (B,) float, a whole number in [0, 1000]."""
    # A float32 time may lie a rounding error below the thousandth that it stands for: 1 - 0.6 < 0.4.
    return (1000 * timestep.float() + 1e-3).trunc()
