"""A tiny network with random weights everywhere, and what it sees."""

import pytest
import torch

from lerobot_lara.moto_gpt.model import Conditions, MotoGPT

SIZES = {
    "language_width": 6,
    "patch_width": 5,
    "num_patches": None,
    "summary_width": 7,
    "state_width": 3,
    "width": 16,
    "num_layers": 2,
    "num_heads": 2,
    "latent_steps": 2,
    "num_latent_tokens": 3,
    "codebook_size": 5,
    "codebook_per_token": False,
    "actions_per_step": 2,
    "action_dim": 4,
    "gripper_index": None,
    "step_embeddings": False,
    "latent_position_embeddings": False,
    "predict_latents": True,
    "dropout": 0.0,
}


@pytest.fixture
def make_model():
    """Returns `make(**options)`; small initial weights would hide errors behind tolerances."""

    def make(**options):
        torch.manual_seed(1)
        model = MotoGPT(**SIZES | options).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.5 * torch.randn_like(parameter))
        return model

    return make


@pytest.fixture
def conditions():
    """Two samples; the second has a shorter instruction."""
    generator = torch.Generator().manual_seed(1)
    sizes = {"language": (2, 4, 6), "patches": (2, 3, 5), "summary": (2, 7), "state": (2, 3)}
    tensors = {name: torch.randn(size, generator=generator) for name, size in sizes.items()}
    return Conditions(language_mask=torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool(), **tensors)


@pytest.fixture
def latent_ids():
    return torch.randint(5, (2, 2, 3), generator=torch.Generator().manual_seed(2))
