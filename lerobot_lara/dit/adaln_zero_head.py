"""The action head `adaln_zero`: every block has self-attention, cross-attention and an MLP (DiT, arXiv 2212.09748).

The flow time shifts, scales and gates each of the three (adaLN-Zero). An action token holds several steps; positions
are learned for the whole sequence.

Legend: B batch, T action chunk, A action dim, S state dim, D width, N = T / action_patch_size action tokens,
M context tokens.
"""

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from lerobot_lara.dit.action_head import ActionHead
from lerobot_lara.dit.blocks import EmbodimentMLP, FlowTimeEmbedding, KeyValue, cross_attention


class AdaLNZeroActionHead(ActionHead):
    """An action head of `DiTBlock`s.

    Args:
        action_dim: A, padded width that all embodiments share.
        state_dim: S; 0 when the robot reports no state.
        chunk_size: T.
        action_patch_size: Consecutive steps per action token; divides `chunk_size`.
        width: D.
        num_layers: Number of blocks.
        num_heads: Attention heads; divides `width`.
        context_width: Width of the observation tokens.
        num_embodiments: Rows of the per-embodiment state and action projections.
        dropout: Inside attention and MLP, in [0, 1).
        state_dropout: Share of training samples whose state is hidden, against copying the state; in [0, 1).
    """

    def __init__(
        self,
        *,
        action_dim: int,
        state_dim: int,
        chunk_size: int,
        action_patch_size: int,
        width: int,
        num_layers: int,
        num_heads: int,
        context_width: int,
        num_embodiments: int,
        dropout: float,
        state_dropout: float,
    ) -> None:
        super().__init__(
            width=width,
            action_patch_size=action_patch_size,
            state_dropout=state_dropout,
            ignore_context_mask=False,
        )
        token_dim, num_tokens = action_dim * action_patch_size, chunk_size // action_patch_size

        def mlp(in_features: int, out_features: int) -> EmbodimentMLP:
            return EmbodimentMLP(num_embodiments, in_features, width, out_features, activation=F.silu)

        self.state_encoder = mlp(state_dim, width) if state_dim else None
        self.action_encoder = mlp(token_dim, width)
        self.action_decoder = mlp(width, token_dim)
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + num_tokens, width))
        self.time_embedding = FlowTimeEmbedding(width)
        self.blocks = nn.ModuleList(
            DiTBlock(width=width, num_heads=num_heads, context_width=context_width, dropout=dropout)
            for _ in range(num_layers)
        )
        self.output_norm = nn.LayerNorm(width)
        # A velocity of zero is the right start: the true one, actions - noise, has a mean near zero.
        nn.init.zeros_(self.action_decoder.output.weight)

    def to_thousandths(self, timestep: Tensor) -> Tensor:
        """Scales the flow time (B,) from [0, 1] to [0, 1000]."""
        return 1000 * timestep.float()

    def embed(
        self, state_token: Tensor, actions: Tensor, thousandths: Tensor, embodiment_id: Tensor
    ) -> Tensor:
        """Builds the sequence (B, 1 + N, D); the flow time enters in the blocks only."""
        return torch.cat([state_token, self.action_encoder(actions, embodiment_id)], dim=1) + self.positions

    def finish(self, hidden_states: Tensor, time: Tensor) -> Tensor:
        """Normalizes the last block's action tokens (B, N, D)."""
        return self.output_norm(hidden_states)


class DiTBlock(nn.Module):
    """Self-attention, cross-attention and MLP, each modulated by the flow time.

    The modulation starts at zero (adaLN-Zero), so that a fresh block is the identity.

    Args:
        width: D.
        num_heads: Divides `width`.
        context_width: Width of the observation tokens.
        dropout: Inside attention and MLP, in [0, 1).
    """

    def __init__(self, *, width: int, num_heads: int, context_width: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = Attention(
            query_dim=width, heads=num_heads, dim_head=width // num_heads, dropout=dropout, bias=True
        )
        self.cross_attention = cross_attention(
            width=width, num_heads=num_heads, context_width=context_width, dropout=dropout
        )
        # Four times as wide inside, as in DiT.
        self.feed_forward = FeedForward(width, mult=4, dropout=dropout, activation_fn="gelu-approximate")
        self.norm_1, self.norm_2, self.norm_3 = (
            nn.LayerNorm(width, elementwise_affine=False) for _ in range(3)
        )
        self.modulation = nn.Linear(width, 9 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    @property
    def context_attention(self) -> Attention:
        """The attention to the observation."""
        return self.cross_attention

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
            context: (B, M, context_width) observation tokens.
            context_mask: (B, M) bool, False at padding; None is all True.
            time: (B, D) from `FlowTimeEmbedding`.
            key_value: `project_context(cross_attention, context)`, where it is known already.

        Returns:
            (B, N, D).
        """
        modulation = self.modulation(F.silu(time)).unflatten(-1, (9, 1, -1))  # (B, 9, 1, D)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2, shift_3, scale_3, gate_3 = modulation.unbind(1)
        mask = None if context_mask is None else context_mask[:, None]  # (B, 1, M)
        given = {"encoder_hidden_states": context, "attention_mask": mask, "key_value": key_value}

        x = x + gate_1 * self.self_attention(modulate(self.norm_1(x), shift_1, scale_1))
        x = x + gate_2 * self.cross_attention(modulate(self.norm_2(x), shift_2, scale_2), **given)
        x = x + gate_3 * self.feed_forward(modulate(self.norm_3(x), shift_3, scale_3))
        return x


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Shifts and scales x (B, N, D) by (B, 1, D) each; a scale of 0 leaves it unchanged."""
    return x * (1 + scale) + shift
