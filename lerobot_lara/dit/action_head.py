"""The action head: a diffusion transformer that predicts the flow-matching velocity of an action chunk.

Sequence: [state | action tokens]. One action token holds `action_patch_size` consecutive steps. The observation
(images, instruction) enters by cross-attention (paper §3). Everything that a block pattern decides stands in one
place: `lerobot_lara.dit.adaln_zero_head` and `lerobot_lara.dit.alternating_head`.

Legend: B batch, T action chunk, A action dim, S state dim, D width, N = T / action_patch_size action tokens,
P width at which actions are decoded, M context tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from lerobot_lara.dit.blocks import EmbodimentMLP, FlowTimeEmbedding, KeyValue, encode_state, project_context


class ActionHead(nn.Module, ABC):
    """Predicts the velocity of a noisy action chunk; a subclass defines the parts.

    Args:
        width: D.
        action_patch_size: Consecutive steps per action token; divides T.
        state_dropout: Share of training samples whose state is hidden, against copying the state; in [0, 1).
        ignore_context_mask: Attend to padded context tokens too.

    Attributes:
        state_encoder: (B, 1, S) -> (B, 1, D); None when the robot reports no state.
        action_encoder: Noisy actions of each token -> (B, N, D).
        action_decoder: (B, N, P) -> (B, N, action_patch_size * A).
        positions: Learned, (1, N or 1 + N, D).
        time_embedding: (B,) thousandths -> (B, D).
        blocks: Each maps (B, 1 + N, D) to the same shape, and has the property `context_attention`: its attention to
            the observation, or None.
        output_norm: Of the last block's output.
    """

    state_encoder: EmbodimentMLP | None
    action_encoder: nn.Module
    action_decoder: EmbodimentMLP
    positions: nn.Parameter
    time_embedding: FlowTimeEmbedding
    blocks: nn.ModuleList
    output_norm: nn.Module

    def __init__(
        self, *, width: int, action_patch_size: int, state_dropout: float, ignore_context_mask: bool
    ) -> None:
        super().__init__()
        self.action_patch_size = action_patch_size
        self.state_dropout = state_dropout
        self.ignore_context_mask = ignore_context_mask
        self.null_state = nn.Parameter(0.02 * torch.randn(1, 1, width))

    @abstractmethod
    def to_thousandths(self, timestep: Tensor) -> Tensor:
        """Scales the flow time (B,) from [0, 1] to [0, 1000]."""

    @abstractmethod
    def embed(
        self, state_token: Tensor, actions: Tensor, thousandths: Tensor, embodiment_id: Tensor
    ) -> Tensor:
        """Encodes the actions and builds the sequence with its positions.

        Args:
            state_token: (B, 1, D).
            actions: (B, N, action_patch_size * A), noisy.
            thousandths: (B,) flow time in [0, 1000].
            embodiment_id: (B,) int64.

        Returns:
            (B, 1 + N, D).
        """

    @abstractmethod
    def finish(self, hidden_states: Tensor, time: Tensor) -> Tensor:
        """Turns the last block's action tokens (B, N, D), with the time (B, D), into the decoder's input (B, N, P)."""

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
        context_keys_values: Sequence[KeyValue | None] | None = None,
    ) -> Tensor:
        """Predicts the velocity once.

        Args:
            noisy_actions: (B, T, A), normalized.
            timestep: (B,) flow time in [0, 1].
            state: (B, S), normalized, or None.
            context: (B, M, context_width) observation tokens.
            context_mask: (B, M) bool, False at padding.
            embodiment_id: (B,) int64.
            state_valid: (B,) bool, False where the learned null state replaces the state; None is all True.
            context_keys_values: `project_context(context)`, where it is known already.

        Returns:
            (B, T, A) velocity.

        Raises:
            ValueError: If `context_keys_values` does not fit the blocks or the context.
        """
        if context_keys_values is None:
            context_keys_values = [None] * len(self.blocks)
        else:
            self._check_keys_values(context_keys_values, context)
        thousandths = self.to_thousandths(timestep)  # (B,)
        time = self.time_embedding(thousandths)  # (B, D)
        mask = None if self.ignore_context_mask else context_mask
        state_token = encode_state(
            state,
            embodiment_id,
            encoder=self.state_encoder,
            null_state=self.null_state,
            valid=state_valid,
            dropout=self.state_dropout if self.training else 0.0,
        )  # (B, 1, D)
        actions = noisy_actions.unflatten(1, (-1, self.action_patch_size)).flatten(2)  # (B, N, patch * A)
        hidden_states = self.embed(state_token, actions, thousandths, embodiment_id)  # (B, 1 + N, D)
        for block, key_value in zip(self.blocks, context_keys_values, strict=True):
            hidden_states = block(hidden_states, context, mask, time, key_value=key_value)
        output = self.finish(hidden_states[:, 1:], time)  # (B, N, P)
        velocity = self.action_decoder(output, embodiment_id)  # (B, N, patch * A)
        return velocity.unflatten(2, (self.action_patch_size, -1)).flatten(1, 2)  # (B, T, A)

    def project_context(self, context: Tensor) -> list[KeyValue | None]:
        """Computes the keys and values of the observation, which are the same in all steps of a flow.

        Args:
            context: (B, M, context_width) observation tokens.

        Returns:
            For each block a pair as `lerobot_lara.dit.blocks.project_context` returns it; None for a block that does
            not attend to the observation.
        """
        return [None if one is None else project_context(one, context) for one in self._context_attentions()]

    def _context_attentions(self) -> list[Attention | None]:
        blocks: Any = self.blocks
        return [block.context_attention for block in blocks]

    def _check_keys_values(self, keys_values: Sequence[KeyValue | None], context: Tensor) -> None:
        hint = "Pass what `project_context` returns for this context."
        if len(keys_values) != len(self.blocks):
            raise ValueError(
                f"`context_keys_values` has {len(keys_values)} entries; it must have {len(self.blocks)}, one per "
                f"block. {hint}"
            )
        for i, (attention, pair) in enumerate(zip(self._context_attentions(), keys_values, strict=True)):
            expected = None
            if attention is not None:
                shape = (
                    len(context),
                    attention.heads,
                    context.shape[1],
                    attention.inner_dim // attention.heads,
                )
                expected = [shape, shape]
            found = None if pair is None else [tuple(one.shape) for one in pair]
            if found != expected:
                raise ValueError(
                    f"`context_keys_values[{i}]` has the shapes {found}; they must be {expected}. {hint}"
                )
