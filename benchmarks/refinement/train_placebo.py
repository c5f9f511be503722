"""`lerobot-train` of a `lara` policy where each sample has the actions of another sample of its batch.

An alignment to such a policy tells the latent action model nothing about what moves the robot. The study compares it
with the alignment to a policy that learns its own actions. Takes the flags of `lerobot-train`.
"""

from typing import Any

import torch
from lerobot.scripts.lerobot_train import main
from torch import Tensor

from lerobot_lara.batch.keys import ACTION
from lerobot_lara.modeling_lara import LaraPolicy


def permute_actions(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with actions moved on by a random number of samples, so that none keeps its own."""
    size = len(batch[ACTION])
    distance = int(torch.randint(1, size, ())) if size > 1 else 0
    moved = {key: batch[key].roll(distance, 0) for key in (ACTION, f"{ACTION}_is_pad") if key in batch}
    return batch | moved


if __name__ == "__main__":
    forward = LaraPolicy.forward

    def forward_permuted(self: LaraPolicy, batch: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
        """`LaraPolicy.forward` on permuted actions."""
        return forward(self, permute_actions(batch))

    LaraPolicy.forward = forward_permuted  # type: ignore[method-assign]
    main()
