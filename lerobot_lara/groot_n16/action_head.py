"""The action head of GR00T N1.6: LeRobot's head of N1.7, which without its self-attention layers is the same network.

What differs is how a robot's state is hidden in training: N1.6 puts a learned vector in its place.
"""

from typing import Any

import torch
from lerobot.policies.groot.groot_n1_7 import GR00TN17ActionHead, GR00TN17Config
from torch import Tensor, nn
from transformers.feature_extraction_utils import BatchFeature


class GrootN16ActionHead(GR00TN17ActionHead):
    """Flow-matching head whose blocks attend to text, themselves and images in turn.

    Args:
        config: LeRobot's configuration of the head of N1.7.
        state_dropout_prob: Share of samples whose state is replaced in `forward`, also in evaluation mode.
    """

    def __init__(self, config: GR00TN17Config, *, state_dropout_prob: float) -> None:
        super().__init__(config)
        self._dropout_prob = state_dropout_prob
        if state_dropout_prob > 0:
            self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, config.input_embedding_dim))

    def forward(self, backbone_output: dict[str, Tensor], action_input: dict[str, Tensor]) -> BatchFeature:
        """The flow-matching loss of a batch, as LeRobot's head computes it.

        Args:
            backbone_output: `backbone_features` (B, L, D); `backbone_attention_mask` and `image_mask` (B, L) bool.
            action_input: `state` (B, 1, S), `action` and `action_mask` (B, T, A), `embodiment_id` (B,).

        Returns:
            `loss`, `action_loss` (B, T, A) and what LeRobot's head adds.
        """
        hook = None
        if self._dropout_prob > 0:
            hook = self.state_encoder.register_forward_hook(self._hide_states)
        try:
            return super().forward(BatchFeature(data=dict(backbone_output)), BatchFeature(data=action_input))
        finally:
            if hook is not None:
                hook.remove()

    def get_action(
        self, backbone_output: dict[str, Tensor], action_input: dict[str, Tensor], options: Any = None
    ) -> BatchFeature:
        """`action_pred` (B, T, A), sampled with LeRobot's head; arguments as in `forward`, without actions."""
        action_input = {key: value for key, value in action_input.items() if key != "action"}
        return super().get_action(
            BatchFeature(data=dict(backbone_output)), BatchFeature(data=action_input), options
        )

    def draw_dropped_states(self, size: int, device: torch.device) -> Tensor:
        """(size,) bool, True where the state is hidden."""
        return torch.rand(size, device=device) < self._dropout_prob

    def _hide_states(self, module: nn.Module, args: Any, features: Tensor) -> Tensor:
        dropped = self.draw_dropped_states(len(features), features.device)
        return torch.where(dropped[:, None, None], self.mask_token.to(features.dtype), features)


def build_action_head(
    *,
    settings: dict[str, Any],
    backbone_embedding_dim: int,
    max_state_dim: int,
    max_action_dim: int,
    action_horizon: int,
    num_inference_timesteps: int,
    state_dropout_prob: float,
) -> GrootN16ActionHead:
    """Builds a head with random weights.

    Args:
        settings: Sizes of the network (`geometry.head_config`).
        backbone_embedding_dim: D, width of the backbone's features.
        max_state_dim: S.
        max_action_dim: A.
        action_horizon: T.
        num_inference_timesteps: Euler steps.
        state_dropout_prob: See `GrootN16ActionHead`.
    """
    config = GR00TN17Config(
        **settings,
        vl_self_attention_cfg=None,
        state_dropout_prob=0.0,
        backbone_embedding_dim=backbone_embedding_dim,
        max_state_dim=max_state_dim,
        max_action_dim=max_action_dim,
        action_horizon=action_horizon,
        num_inference_timesteps=num_inference_timesteps,
    )
    return GrootN16ActionHead(config, state_dropout_prob=state_dropout_prob)
