"""Tiny parts of the models, in which no two dimensions have the same size."""

from typing import Any

import torch
from support.heads import make_head
from torch import Tensor, nn

from lerobot_lara.backbones.encoders import ImageEncoder, TextEncoder
from lerobot_lara.lam.latent_action_model import LatentActionModel

# Of the LAM: B pairs, L latent tokens of width C, P frame tokens of width W; pictures have a side of 32 pixels, and
# predicted ones of 16.
LAM_SIZES: dict[str, Any] = {"B": 2, "L": 3, "C": 5, "P": 6, "D": 7, "h": 16}
# Of the action heads: T steps of A action dimensions in N tokens, S state dimensions, M context tokens of width W.
HEAD_SIZES: dict[str, Any] = {"B": 2, "T": 10, "N": 5, "A": 3, "S": 4, "D": 16, "M": 7, "W": 12}


class FakeBackbone(nn.Module):
    """Maps (N, 3, H, W) to tokens (N, 6, 7)."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(3, 7)

    def forward(self, images: Tensor) -> Tensor:
        return self.projection(images.mean((2, 3)))[:, None].repeat(1, 6, 1)


class FakeLanguageModel(nn.Module):
    """Answers with hidden states (B, S, 9), as transformers does."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 9)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return type("Output", (), {"last_hidden_state": self.embedding(input_ids)})


def make_image_encoder(*, frozen: bool = False) -> ImageEncoder:
    """An encoder of 6 tokens of width 7 for images of 32 pixels."""
    statistics = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    return ImageEncoder(FakeBackbone(), image_size=32, frozen=frozen, dtype=torch.float32, **statistics)


def make_text_encoder() -> TextEncoder:
    """An encoder of width 9."""
    return TextEncoder(FakeLanguageModel(), width=9, frozen=True)


def make_lam(**fields: Any) -> LatentActionModel:
    """A LAM of `LAM_SIZES` that predicts pixels and features; its parts are leaves too."""
    from lerobot_lara.lam.settings import LatentActionSettings

    torch.manual_seed(0)
    widths = {"idm_width": 8, "idm_num_layers": 1, "idm_num_heads": 2, "fdm_width": 16, "fdm_num_layers": 1}
    sizes = {"image_size": 32, "prediction_size": 16, "fdm_patch_size": 8, "num_latent_tokens": 3}
    settings = {"latent_dim": 5, "fdm_num_heads": 2, "feature_loss_weight": 1.0} | widths | sizes | fields
    return LatentActionModel(LatentActionSettings(**settings), frame_encoder=make_image_encoder(frozen=True))


def make_leaf_head(name: str) -> nn.Module:
    """An action head of `HEAD_SIZES` for two embodiments; one token holds two steps, in "gr00t" one."""
    sizes = {"action_dim": 3, "state_dim": 4, "chunk_size": 10, "width": 16, "context_width": 12}
    return make_head(name, **sizes)


def head_inputs() -> dict[str, Tensor]:
    """What an action head of `HEAD_SIZES` takes."""
    return {
        "noisy_actions": torch.randn(2, 10, 3),
        "timestep": torch.rand(2),
        "state": torch.randn(2, 4),
        "context": torch.randn(2, 7, 12),
        "context_mask": torch.ones(2, 7, dtype=torch.bool),
        "embodiment_id": torch.tensor([0, 1]),
    }
