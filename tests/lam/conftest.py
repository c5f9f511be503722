"""A tiny latent action model and frame pairs in which a square moves."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lerobot_lara.lam.latent_action_model import LatentActionModel

TINY = {
    "image_size": 32,
    "prediction_size": 16,
    "frame_encoder_width": 16,
    "num_latent_tokens": 2,
    "latent_dim": 4,
    "codebook_size": 8,
    "idm_width": 32,
    "idm_num_layers": 1,
    "fdm_width": 32,
    "fdm_num_layers": 1,
    "mlp_ratio": 2.0,
}


def moving_square(num_pairs: int, size: int = 32, seed: int = 0) -> Tensor:
    """Frame pairs (B, 2, 3, size, size) in [0, 1]: a bright square that jumps up to a third of the image."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.full((num_pairs, 2, 3, size, size), 0.1)
    side = size // 4
    start = torch.randint(size // 4, size // 2, (num_pairs, 2), generator=generator)
    jump = torch.randint(-size // 4, size // 4 + 1, (num_pairs, 2), generator=generator)
    for i in range(num_pairs):
        for k, (row, column) in enumerate((start[i], start[i] + jump[i])):
            frames[i, k, :, row : row + side, column : column + side] = 0.9
    return frames


@pytest.fixture
def frames() -> Tensor:
    return moving_square(12)


@pytest.fixture
def make_lam() -> Callable[..., LatentActionModel]:
    def make(**fields: Any) -> LatentActionModel:
        torch.manual_seed(0)
        return LatentActionModel.from_config(**(TINY | fields))

    return make
