"""Every impossible setting raises and names its field."""

from typing import Any

import pytest

from lerobot_lara.lam.settings import CHOICES, LatentActionSettings

WRONG: list[dict[str, Any]] = [
    *({name: "unheard of"} for name in CHOICES),
    {"frame_gap": 0},
    {"num_latent_tokens": 0},
    {"latent_noise": -0.1},
    {"change_weight": -1.0},
    {"idm_num_heads": 3},
    {"fdm_num_heads": 5},
    {"codebook_decay": 1.0},
    {"fsq_levels": ()},
    {"fsq_levels": (8, 2)},
    {"latent_dim": 1},
    {"fdm_patch_size": 7},
    {"prediction_size": 30, "fdm_patch_size": 8},
    {"reconstruction_loss_weight": 0.0},
    {"perceptual_loss_weight": 1.0, "prediction_size": 16},
    {"perceptual_loss_weight": 1.0, "reconstruction_loss_weight": 0.0, "feature_loss_weight": 1.0},
]


@pytest.mark.parametrize("fields", WRONG, ids=str)
def test_impossible_values_name_their_field(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(fields))}`"):
        LatentActionSettings(**fields)


def test_unknown_fields_are_named_and_lists_become_tuples() -> None:
    with pytest.raises(ValueError, match="color, taste"):
        LatentActionSettings.from_kwargs(taste=1, color=2, frame_gap=3)
    assert LatentActionSettings.from_kwargs(fsq_levels=[5, 5]).fsq_levels == (5, 5)


def test_the_reference_can_be_expressed() -> None:
    LatentActionSettings(
        frame_gap=15,
        image_size=224,
        prediction_size=224,
        frame_encoder="facebook/vit-mae-large",
        normalize_frames=False,
        num_latent_tokens=8,
        latent_dim=32,
        latent_projection="tanh_mlp",
        normalize_latent=False,
        quantizer="vq",
        codebook_size=128,
        codebook_update="gradient",
        commitment_loss_weight=1.0,
        codebook_loss_weight=0.25,
        idm_width=768,
        idm_num_layers=4,
        idm_num_heads=12,
        fdm_width=768,
        fdm_num_layers=12,
        fdm_num_heads=12,
        fdm_patch_size=16,
        mlp_ratio=4.0,
        layer_norm_eps=1e-12,
        shared_frame_type=True,
        latent_fusion="add",
        residual_prediction=False,
        change_weight=0.0,
        perceptual_loss_weight=1.0,
    )
