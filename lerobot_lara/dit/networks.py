"""Builds the networks that a `lara_dit` configuration names."""

from typing import Any

import torch

from lerobot_lara.backbones.encoders import build_image_encoder, build_text_encoder
from lerobot_lara.backbones.vision_language import image_size_of
from lerobot_lara.dit.action_head import ActionHead
from lerobot_lara.dit.adaln_zero_head import AdaLNZeroActionHead
from lerobot_lara.dit.alternating_head import AlternatingActionHead
from lerobot_lara.dit.conditioning import ObservationEncoder
from lerobot_lara.dit.configuration_lara_dit import LaraDiTConfig
from lerobot_lara.dit.vlm_conditioning import VLMObservationEncoder


def build_observation_encoder(config: LaraDiTConfig) -> ObservationEncoder | VLMObservationEncoder:
    """Builds what the action head attends to: two small encoders, or a vision-language model.

    Args:
        config: Its `conditioning` decides.

    Returns:
        An encoder with the attribute `width`, of its context tokens.

    Raises:
        ValueError: If a pretrained model cannot be loaded, or does not fit the configuration.
    """
    dtype = getattr(torch, config.dtype)
    if config.conditioning == "vlm":
        return VLMObservationEncoder(
            config.vlm,
            layer=config.vlm_layer,
            image_size=image_size_of(config.vlm, chosen=config.vlm_image_size),
            num_cameras=len(config.image_features),
            num_trained_layers=config.vlm_trained_layers,
            lora_rank=config.vlm_lora_rank,
            num_self_attention_layers=config.vlm_self_attention_layers,
            dropout=config.dropout,
            dtype=dtype,
        )
    return ObservationEncoder(
        image_encoder=build_image_encoder(
            config.vision_encoder,
            image_size=config.image_size,
            width=config.vision_encoder_width,
            layer=config.vision_encoder_layer,
            frozen=config.freeze_vision_encoder,
            normalize=True,
            dtype=dtype,
            field="vision_encoder",
        ),
        num_cameras=len(config.image_features),
        width=config.width,
        text_encoder=None
        if config.text_encoder is None
        else build_text_encoder(config.text_encoder, frozen=True, field="text_encoder"),
    )


def build_action_head(config: LaraDiTConfig, *, context_width: int) -> ActionHead:
    """Builds the action head that `config.action_head` names.

    Args:
        config: The policy's configuration, with its features.
        context_width: Width of the observation tokens.
    """
    arguments: dict[str, Any] = {
        "action_dim": config.action_dim,
        "state_dim": config.state_dim,
        "chunk_size": config.chunk_size,
        "width": config.width,
        "num_layers": config.num_layers,
        "num_heads": config.num_heads,
        "context_width": context_width,
        "num_embodiments": config.num_embodiments,
        "dropout": config.dropout,
        "state_dropout": config.state_dropout,
    }
    if config.action_head == "gr00t":
        return AlternatingActionHead(
            **arguments,
            projection_width=config.projection_width,
            ignore_context_mask=config.ignore_context_mask,
        )
    return AdaLNZeroActionHead(**arguments, action_patch_size=config.action_patch_size)
