"""The action head: a diffusion transformer that predicts the flow-matching velocity of an action chunk.

Sequence: [state | action tokens]. One action token holds `action_patch_size` consecutive steps. The
observation (images, instruction) enters by cross-attention, the flow time by adaLN (paper §3, GR00T N1).

Legend: B batch, T action chunk, A action dim, S state dim, D width, N = T / action_patch_size action tokens,
M context tokens.
"""

import torch
from torch import Tensor, nn

from lerobot_lara.dit.blocks import (
    DiTBlock,
    EmbodimentMLP,
    FlowTimeEmbedding,
    encode_state,
    key_value_projections,
)


class FlowMatchingActionHead(nn.Module):
    """Predicts the velocity of a noisy action chunk.

    Args:
        action_dim: A, padded width that all embodiments share.
        state_dim: S; 0 when the robot reports no state.
        chunk_size: T.
        action_patch_size: Consecutive steps per action token; divides `chunk_size`.
        width: D.
        num_layers: Number of DiT blocks.
        num_heads: Attention heads; divides `width`.
        context_width: Width of the observation tokens.
        num_embodiments: Rows of the per-embodiment state and action projections.
        dropout: Inside attention and MLP.
        state_dropout: Share of training samples whose state is hidden, against copying the state.
    """

    def __init__(
        self,
        *,
        action_dim: int,
        state_dim: int,
        chunk_size: int,
        action_patch_size: int = 1,
        width: int = 256,
        num_layers: int = 6,
        num_heads: int = 8,
        context_width: int = 256,
        num_embodiments: int = 1,
        dropout: float = 0.0,
        state_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.action_patch_size = action_patch_size
        self.state_dropout = state_dropout
        token_dim = action_dim * action_patch_size
        self.null_state = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.state_encoder = EmbodimentMLP(num_embodiments, state_dim, width, width) if state_dim else None
        self.action_encoder = EmbodimentMLP(num_embodiments, token_dim, width, width)
        self.action_decoder = EmbodimentMLP(num_embodiments, width, width, token_dim)
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + chunk_size // action_patch_size, width))
        self.time_embedding = FlowTimeEmbedding(width)
        self.blocks = nn.ModuleList(
            DiTBlock(width=width, num_heads=num_heads, context_width=context_width, dropout=dropout)
            for _ in range(num_layers)
        )
        self.output_norm = nn.LayerNorm(width)
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
        tokens = noisy_actions.unflatten(1, (-1, self.action_patch_size)).flatten(2)  # (B, N, patch * A)
        action_tokens = self.action_encoder(tokens, embodiment_id)  # (B, N, D)
        state_token = encode_state(
            state,
            embodiment_id,
            encoder=self.state_encoder,
            null_state=self.null_state,
            valid=state_valid,
            dropout=self.state_dropout if self.training else 0.0,
        )  # (B, 1, D)
        hidden_states = torch.cat([state_token, action_tokens], dim=1) + self.positions  # (B, 1 + N, D)
        time = self.time_embedding(1000 * timestep.float())
        for block in self.blocks:
            hidden_states = block(hidden_states, context, context_mask, time)
        decoded = self.action_decoder(self.output_norm(hidden_states[:, 1:]), embodiment_id)
        return decoded.unflatten(2, (self.action_patch_size, -1)).flatten(1, 2)  # (B, T, A)

    def context_projections(self) -> list[nn.Module]:
        """What turns context tokens into keys and values; the same in all steps of a flow."""
        return key_value_projections([block.cross_attention for block in self.blocks])
