"""Decodes latent tokens one after the other, as the latent part of Moto-GPT's acting does.

Legend: B batch, T latent steps, L latent tokens of a step, V codes.
"""

import torch
from torch import Tensor

from lerobot_lara.moto_gpt.model import Conditions, MotoGPT


@torch.no_grad()
def decode_latents(
    model: MotoGPT,
    conditions: Conditions,
    *,
    steps: int | None = None,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Predicts codes, each given those before it.

    Args:
        model: With latent tokens.
        conditions: What the policy knows.
        steps: Steps to decode, at most T; None decodes all. The ids of later steps are 0.
        temperature: Of sampling; 0 takes the likeliest code.
        generator: Draws the samples.

    Returns:
        (B, T, L) int64.
    """
    count = model.latent_steps if steps is None else steps
    shape = (len(conditions.patches), model.latent_steps, model.num_latent_tokens)
    ids = torch.zeros(shape, dtype=torch.int64, device=conditions.patches.device)
    for step in range(count):
        for token in range(model.num_latent_tokens):
            logits, _ = model(conditions, ids)
            assert logits is not None
            scores = logits[:, step, token].float()  # (B, V)
            if temperature > 0:
                chances = (scores / temperature).softmax(-1)
                ids[:, step, token] = torch.multinomial(chances, 1, generator=generator)[:, 0]
            else:
                ids[:, step, token] = scores.argmax(-1)
    return ids
