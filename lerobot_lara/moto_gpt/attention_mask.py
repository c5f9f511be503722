"""Who sees whom in Moto-GPT's sequence (arXiv 2412.04445; TencentARC/Moto, moto_gpt.py).

    [language | image | T times: query, L latent tokens, K action queries]

| row sees column | language, image, state | block of step s (query and latent tokens) | action queries |
|---|---|---|---|
| language, image, state | yes, but for padding | no | no |
| block of a step | yes, but for padding | where the step exists | no |
| action query | yes, but for padding | where the step exists and is visible | no, not even itself |

All of it below the diagonal only: also language and image tokens see what is before them, and no more.

Legend: B batch, M conditions, T latent steps, L latent tokens of a step, K action queries of a step, N tokens.
"""

import torch
from torch import Tensor


def attention_mask(
    condition_valid: Tensor,
    latent_valid: Tensor,
    latent_visible: Tensor,
    *,
    block_tokens: int,
    actions_per_step: int,
) -> Tensor:
    """Builds the mask.

    Args:
        condition_valid: (B, M) bool, False at padding.
        latent_valid: (B, T) bool, False at steps that lie beyond the episode.
        latent_visible: (B, T) bool, False at steps that the actions are not to see.
        block_tokens: 1 + L, or 0 in a model without latent tokens.
        actions_per_step: K, or 0 in a model without actions.

    Returns:
        (B, 1, N, N) bool, True where the row's token sees the column's.
    """
    batch_size, num_conditions = condition_valid.shape
    steps = latent_valid.shape[1]
    # Of each token behind the conditions: whether it is an action query.
    is_action = torch.arange(block_tokens + actions_per_step, device=latent_valid.device) >= block_tokens
    is_action = is_action.repeat(steps)  # (T * (1 + L + K),)
    to_blocks = _per_token(latent_valid, block_tokens, actions_per_step)  # (B, T * (1 + L + K))
    to_visible = _per_token(latent_valid & latent_visible, block_tokens, actions_per_step)
    columns = torch.cat([condition_valid, to_blocks & ~is_action], dim=1)  # (B, N)
    columns_of_actions = torch.cat([condition_valid, to_visible & ~is_action], dim=1)
    row_is_action = torch.cat([is_action.new_zeros(num_conditions), is_action])  # (N,)
    seen = torch.where(row_is_action[None, :, None], columns_of_actions[:, None], columns[:, None])
    length = seen.shape[-1]
    below = torch.ones(length, length, dtype=torch.bool, device=seen.device).tril()
    return (seen.expand(batch_size, length, length) & below)[:, None]


def _per_token(of_steps: Tensor, block_tokens: int, actions_per_step: int) -> Tensor:
    """(B, T) -> (B, T * (1 + L + K))."""
    return of_steps.bool().repeat_interleave(block_tokens + actions_per_step, dim=1)
