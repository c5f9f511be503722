"""The network of GR00T N1.6: backbone and action head, with the release's parameter names."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lerobot_lara.groot_n16.action_head import GrootN16ActionHead, build_action_head
from lerobot_lara.groot_n16.backbone import EagleBackbone
from lerobot_lara.groot_n16.configuration_groot_n16 import GrootN16Config


class GrootN16Model(nn.Module):
    """Reads images and instruction with the backbone, for the action head.

    Args:
        config: The policy's configuration; weights are random, those that are frozen in `dtype`.
    """

    action_head: GrootN16ActionHead

    def __init__(self, config: GrootN16Config) -> None:
        super().__init__()
        # The release's names have "model" in between.
        self.backbone = nn.ModuleDict(
            {
                "model": EagleBackbone(
                    vision=config.vision_config,
                    text=config.text_config,
                    num_layers=config.select_layer,
                    image_token_id=config.image_token_id,
                )
            }
        )
        self.action_head = build_action_head(
            settings=config.head_config,
            backbone_embedding_dim=config.text_config["hidden_size"],
            max_state_dim=config.max_state_dim,
            max_action_dim=config.max_action_dim,
            action_horizon=config.action_horizon,
            num_inference_timesteps=config.num_inference_timesteps,
            state_dropout_prob=config.state_dropout_prob,
        )
        self.vision_language.set_trained(
            top_layers=config.tune_top_llm_layers, language=config.tune_llm, vision=config.tune_visual
        )
        self.action_head.set_trainable_parameters(
            config.tune_projector, config.tune_diffusion_model, config.tune_vlln
        )
        if config.dtype == "bfloat16":
            for parameter in self.parameters():
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(torch.bfloat16)

    @property
    def vision_language(self) -> EagleBackbone:
        """The backbone."""
        backbone: Any = self.backbone["model"]
        return backbone

    def read(self, images: Sequence[Tensor], input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Encodes what the robot sees and is told.

        Args:
            images: One (B, 3, H, W) in [-1, 1] for each camera.
            input_ids: (B, L) int64, with tokens for the cameras in this order.
            attention_mask: (B, L) bool.

        Returns:
            `backbone_features` (B, L, D), `backbone_attention_mask` and `image_mask` (B, L) bool.
        """
        vision_language = self.vision_language
        tokens = torch.cat([vision_language.encode_images(camera) for camera in images], dim=1)  # (B, n, D)
        return {
            "backbone_features": vision_language(input_ids, attention_mask, tokens.flatten(0, 1)),
            "backbone_attention_mask": attention_mask,
            "image_mask": vision_language.image_mask(input_ids),
        }
