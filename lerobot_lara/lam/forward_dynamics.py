"""Forward dynamics: current frame + latent action -> future frame and/or its features (paper §3.1).

Shapes: B batch, N = g*g patches, P encoder tokens, L latent-action tokens, C latent width, D width.
"""

import torch
from torch import Tensor, nn

from lerobot_lara.backbones.images import resize
from lerobot_lara.lam.transformer import Transformer, embedding, init_linear, latent_projection, zero_init


class ForwardDynamicsModel(nn.Module):
    """A ViT over the current frame's patches into which the latent action is fused.

    Args:
        image_size: Side in pixels of the frame it looks at.
        patch_size: Side in pixels of a patch.
        prediction_size: Side in pixels of the predicted frame; a multiple of g = image_size / patch_size.
        num_latent_tokens: L.
        latent_dim: C.
        width: D.
        num_layers: Number of blocks.
        num_heads: Attention heads; divides D.
        mlp_ratio: Hidden width of the MLPs relative to D.
        layer_norm_eps: Epsilon of the LayerNorms.
        projection: From C to D: "linear" or "tanh_mlp".
        fusion: "cross_attention": each block attends to the L latent tokens. "add": all L tokens together
            become one vector that is added to every patch (the reference), so nothing is local.
        residual: Predict the change from the current frame.
        predict_pixels: Predict the future frame.
        num_feature_tokens: P, to predict the future frame's encoder features too; 0 predicts none.
        feature_width: Width of these features.
    """

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        prediction_size: int,
        num_latent_tokens: int,
        latent_dim: int,
        width: int,
        num_layers: int,
        num_heads: int,
        mlp_ratio: float,
        layer_norm_eps: float,
        projection: str,
        fusion: str,
        residual: bool,
        predict_pixels: bool,
        num_feature_tokens: int,
        feature_width: int,
    ) -> None:
        super().__init__()
        self.image_size, self.prediction_size = image_size, prediction_size
        self.fusion, self.residual = fusion, residual
        self.grid = image_size // patch_size
        num_patches = self.grid**2
        self.patch_embedding = nn.Conv2d(3, width, patch_size, stride=patch_size)
        self.position = embedding(1, num_patches + num_feature_tokens, width)
        self.latent_projection = latent_projection(projection, latent_dim, latent_dim, width)
        if fusion == "cross_attention":
            self.latent_position = embedding(1, num_latent_tokens, width)
        else:
            self.latent_pooling = nn.Linear(num_latent_tokens * width, width)
        self.transformer = Transformer(
            width=width,
            num_layers=num_layers,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            eps=layer_norm_eps,
            cross_attention=fusion == "cross_attention",
        )
        self.apply(init_linear)
        self.pixel_head: nn.Conv2d | None = None
        self.feature_head: nn.Linear | None = None
        if predict_pixels:
            self.pixel_head = nn.Conv2d(width, 3 * (prediction_size // self.grid) ** 2, 1)
        if num_feature_tokens:
            self.feature_projection = nn.Linear(feature_width, width)
            self.feature_head = nn.Linear(width, feature_width)
        if residual:  # Start from "nothing changes".
            for head in self.pixel_head, self.feature_head:
                if head is not None:
                    head.apply(zero_init)

    def forward(
        self, frame: Tensor, latent: Tensor, features: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Predicts the future.

        Args:
            frame: (B, 3, H, W) current frame in [0, 1].
            latent: (B, L, C) quantized latent action.
            features: (B, P, feature_width) normalized encoder features of the current frame, when features are
                predicted.

        Returns:
            The future frame (B, 3, prediction_size, prediction_size), about in [0, 1], and the future
            features (B, P, feature_width); None for what is not predicted.
        """
        patches = self.patch_embedding(resize(frame, self.image_size)).flatten(2).transpose(1, 2)  # (B, N, D)
        num_patches = patches.shape[1]
        latent_tokens = self.latent_projection(latent)  # (B, L, D)
        context = None
        if self.fusion == "cross_attention":
            context = latent_tokens + self.latent_position
        else:
            patches = patches + self.latent_pooling(latent_tokens.flatten(1))[:, None]  # (B, 1, D)
        if self.feature_head is not None:
            patches = torch.cat([patches, self.feature_projection(features)], dim=1)  # (B, N + P, D)
        states = self.transformer(patches + self.position, context)
        return self._pixels(states[:, :num_patches], frame), self._features(states[:, num_patches:], features)

    def _pixels(self, states: Tensor, frame: Tensor) -> Tensor | None:
        if self.pixel_head is None:
            return None
        grid = states.transpose(1, 2).unflatten(2, (self.grid, self.grid))  # (B, D, g, g)
        pixels = nn.functional.pixel_shuffle(self.pixel_head(grid), self.prediction_size // self.grid).float()
        return pixels + resize(frame, self.prediction_size) if self.residual else pixels

    def _features(self, states: Tensor, features: Tensor | None) -> Tensor | None:
        if self.feature_head is None or features is None:
            return None
        predicted = self.feature_head(states).float()  # (B, P, feature_width)
        return predicted + features if self.residual else predicted
