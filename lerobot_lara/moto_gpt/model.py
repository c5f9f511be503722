"""Moto-GPT: a GPT that predicts latent motion tokens, and actions beside them (arXiv 2412.04445).

From an instruction and one frame it predicts the codes of the next T latent actions, one token after the other, and in
the same pass T * K actions from queries that see them. The network is that of TencentARC/Moto (Apache-2.0), with
transformers' GPT-2 as backbone; the pretrained encoders of words and images are the caller's.

Legend: B batch, S language tokens, P image tokens, T latent steps, L latent tokens of a step, V codes, K actions of a
step, A action dim, D width, N tokens of the sequence.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model

from lerobot_lara.moto_gpt.attention_mask import attention_mask


@dataclass(frozen=True)
class Conditions:
    """What the policy knows at o_t, encoded.

    Attributes:
        language: (B, S, width) tokens of the instruction; None without one.
        language_mask: (B, S) bool, False at padding, which is on the right.
        patches: (B, P, width) image tokens, of all cameras.
        patch_mask: (B, P) bool, False at cameras that a sample lacks; None is all True.
        summary: (B, width) one more token for the whole image; None for an encoder without one.
        state: (B, width) state of the robot; None without.
        state_mask: (B,) bool, False at samples without one; None is all True.
    """

    language: Tensor | None
    language_mask: Tensor | None
    patches: Tensor
    patch_mask: Tensor | None = None
    summary: Tensor | None = None
    state: Tensor | None = None
    state_mask: Tensor | None = None


class _NoPosition(nn.Module):
    """In place of GPT-2's position embedding, which Moto-GPT does not have."""

    def forward(self, position_ids: Tensor) -> Tensor:
        return torch.zeros((), device=position_ids.device)  # no dimension: the sum keeps the tokens' dtype


class MotoGPT(nn.Module):
    """The trained network.

    Args:
        language_width: Width of the language tokens; None without an instruction.
        patch_width: Width of the image tokens.
        num_patches: P, for a learned vector at each of their positions; None where image tokens tell their own, as in
            the released model.
        summary_width: Width of the image's summary token; None without one.
        state_width: Dimensions of the state; None without.
        width: D.
        num_layers: Number of blocks.
        num_heads: Attention heads; divides D.
        latent_steps: T.
        num_latent_tokens: L.
        codebook_size: V.
        codebook_per_token: Whether each of the L tokens has V codes of its own, as in a codebook that was fitted
            afterwards.
        actions_per_step: K; 0 for a model that predicts latent tokens only.
        action_dim: A.
        gripper_index: Dimension of the action with a head of its own; None for one head.
        step_embeddings: Learned vector for each step, added to all of its tokens.
        latent_position_embeddings: Learned vector for each position in a block, added to query and latent tokens.
        predict_latents: Whether there are latent tokens; without, actions come from instruction and image alone.
        dropout: Of embeddings, attention and residuals.
    """

    def __init__(
        self,
        *,
        language_width: int | None,
        patch_width: int,
        num_patches: int | None,
        summary_width: int | None,
        state_width: int | None,
        width: int,
        num_layers: int,
        num_heads: int,
        latent_steps: int,
        num_latent_tokens: int,
        codebook_size: int,
        codebook_per_token: bool,
        actions_per_step: int,
        action_dim: int,
        gripper_index: int | None,
        step_embeddings: bool,
        latent_position_embeddings: bool,
        predict_latents: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.latent_steps, self.num_latent_tokens = latent_steps, num_latent_tokens
        self.codebook_size, self.actions_per_step = codebook_size, actions_per_step
        self.action_dim, self.gripper_index = action_dim, gripper_index
        self.block_tokens = 1 + num_latent_tokens if predict_latents else 0
        self.num_tables = num_latent_tokens if codebook_per_token else 1

        self.embed_language = None if language_width is None else nn.Linear(language_width, width)
        self.embed_patch = nn.Linear(patch_width, width)
        self.patch_positions = (
            None if num_patches is None else nn.Parameter(0.02 * torch.randn(num_patches, width))
        )
        self.embed_summary = None if summary_width is None else nn.Linear(summary_width, width)
        self.embed_state = None if state_width is None else nn.Linear(state_width, width)
        self.embed_condition = nn.Parameter(torch.randn(width))
        if predict_latents:
            self.latent_query = nn.Parameter(torch.randn(width))
            self.embed_latent = nn.Embedding(codebook_size * self.num_tables, width)
            self.latent_head = nn.Linear(width, codebook_size * self.num_tables, bias=False)
        if actions_per_step:
            self.action_query = nn.Parameter(torch.randn(width))
            self.chunk_queries = nn.Parameter(torch.zeros(latent_steps * actions_per_step, width))
            # No activation in between: together with the heads it is one linear map, as in the released code.
            self.action_mlp = nn.Sequential(nn.Linear(width, width // 2), nn.Linear(width // 2, width // 2))
            self.arm_head = nn.Linear(width // 2, action_dim - (gripper_index is not None))
            self.gripper_head = None if gripper_index is None else nn.Linear(width // 2, 1)
        self.step_embedding = nn.Parameter(torch.randn(latent_steps, width)) if step_embeddings else None
        self.latent_position_embedding = (
            nn.Parameter(torch.randn(self.block_tokens, width)) if latent_position_embeddings else None
        )
        self.embed_norm = nn.LayerNorm(width)
        settings: dict[str, Any] = {
            "vocab_size": 1,
            "n_positions": 1,
            "n_embd": width,
            "n_layer": num_layers,
            "n_head": num_heads,
            "activation_function": "relu",
            "embd_pdrop": dropout,
            "attn_pdrop": dropout,
            "resid_pdrop": dropout,
            "use_cache": False,
        }
        self.backbone = GPT2Model(GPT2Config(**settings))
        embeddings: Any = self.backbone
        embeddings.wpe = _NoPosition()
        # It is given embeddings. transformers' gradient checkpointing looks for the module all the same.
        embeddings.wte = nn.Identity()

    def forward(
        self,
        conditions: Conditions,
        latent_ids: Tensor | None,
        *,
        latent_valid: Tensor | None = None,
        latent_visible: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Predicts every latent token from those before it, and all actions.

        Args:
            conditions: What the policy knows.
            latent_ids: (B, T, L) int64 codes in [0, V); None without latent tokens.
            latent_valid: (B, T) bool, False at steps that do not exist: no token sees them. None is all True.
            latent_visible: (B, T) bool, False at steps that no action sees. None is all True.

        Returns:
            Logits of the latent tokens (B, T, L, V), and actions (B, T, K, A) in the order of the dataset's dimensions,
            that of the gripper as its head puts it out; None for what the model does not predict.
        """
        condition_tokens, condition_valid = self._condition_tokens(conditions)
        batch_size, device = len(condition_tokens), condition_tokens.device
        everywhere = torch.ones(batch_size, self.latent_steps, dtype=torch.bool, device=device)
        tokens = torch.cat([condition_tokens, self._step_tokens(latent_ids, batch_size)], dim=1)  # (B, N, D)
        seen = attention_mask(
            condition_valid,
            everywhere if latent_valid is None else latent_valid.bool(),
            everywhere if latent_visible is None else latent_visible.bool(),
            block_tokens=self.block_tokens,
            actions_per_step=self.actions_per_step,
        )
        tokens = self.embed_norm(tokens)
        bias = torch.zeros(seen.shape, dtype=tokens.dtype, device=device)
        bias = bias.masked_fill(~seen, torch.finfo(tokens.dtype).min)
        hidden = self.backbone(inputs_embeds=tokens, attention_mask=bias).last_hidden_state
        steps = hidden[:, condition_tokens.shape[1] :].unflatten(1, (self.latent_steps, -1))
        return self._latent_logits(steps), self._actions(steps)

    def _condition_tokens(self, conditions: Conditions) -> tuple[Tensor, Tensor]:
        """Conditions as tokens (B, M, D), and (B, M) bool, False at padding."""
        patches, patch_mask = conditions.patches, conditions.patch_mask
        ones = torch.ones(patches.shape[:2], dtype=torch.bool, device=patches.device)
        tokens, masks = [], []
        if self.embed_language is not None:
            assert conditions.language is not None and conditions.language_mask is not None
            tokens.append(self.embed_language(conditions.language))
            masks.append(conditions.language_mask.bool())
        embedded = self.embed_patch(patches)
        tokens.append(embedded if self.patch_positions is None else embedded + self.patch_positions)
        masks.append(ones if patch_mask is None else patch_mask)
        for embed, feature, mask in (
            (self.embed_summary, conditions.summary, None),
            (self.embed_state, conditions.state, conditions.state_mask),
        ):
            if embed is not None:
                assert feature is not None
                tokens.append(embed(feature)[:, None])
                masks.append(ones[:, :1] if mask is None else mask[:, None])
        return torch.cat(tokens, dim=1) + self.embed_condition, torch.cat(masks, dim=1)

    def _step_tokens(self, latent_ids: Tensor | None, batch_size: int) -> Tensor:
        """Query, latent tokens and action queries of all steps (B, T * (1 + L + K), D)."""
        parts = []
        if self.block_tokens:
            assert latent_ids is not None
            offsets = torch.arange(self.num_latent_tokens, device=latent_ids.device) * self.codebook_size
            latents = self.embed_latent(latent_ids + (offsets if self.num_tables > 1 else 0))  # (B, T, L, D)
            query = self.latent_query.expand(batch_size, self.latent_steps, 1, -1)
            block = torch.cat([query, latents], dim=2)  # (B, T, 1 + L, D)
            if self.latent_position_embedding is not None:
                block = block + self.latent_position_embedding
            parts.append(block)
        if self.actions_per_step:
            queries = (self.action_query + self.chunk_queries).unflatten(0, (self.latent_steps, -1))
            parts.append(queries.expand(batch_size, -1, -1, -1))  # (B, T, K, D)
        tokens = torch.cat(parts, dim=2)
        if self.step_embedding is not None:
            tokens = tokens + self.step_embedding[:, None]
        return tokens.flatten(1, 2)

    def _latent_logits(self, steps: Tensor) -> Tensor | None:
        """Hidden states (B, T, 1 + L + K, D) -> (B, T, L, V): each token from the position before it."""
        if not self.block_tokens:
            return None
        logits = self.latent_head(steps[:, :, : self.num_latent_tokens])
        logits = logits.unflatten(-1, (self.num_tables, self.codebook_size))  # (B, T, L, tables, V)
        if self.num_tables == 1:
            return logits[..., 0, :]
        return logits.diagonal(dim1=2, dim2=3).movedim(-1, 2)

    def _actions(self, steps: Tensor) -> Tensor | None:
        """Hidden states (B, T, 1 + L + K, D) -> (B, T, K, A)."""
        if not self.actions_per_step:
            return None
        features = self.action_mlp(steps[:, :, self.block_tokens :])
        arm = self.arm_head(features)
        if self.gripper_head is None or self.gripper_index is None:
            return arm
        index = self.gripper_index % self.action_dim
        return torch.cat([arm[..., :index], self.gripper_head(features), arm[..., index:]], dim=-1)
