"""Inverse dynamics: two encoded frames -> the latent action between them (paper §3.1; Moto's M-Former).

Shapes: B batch, P tokens per frame, L latent-action tokens, C latent width, D width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lerobot_lara.lam.transformer import Transformer, embedding, init_linear, latent_projection


class InverseDynamicsModel(nn.Module):
    """Learned queries attend to both frames; their final states are the latent action.

    Args:
        feature_width: Width of the frame tokens.
        num_frame_tokens: P.
        num_latent_tokens: L.
        latent_dim: C.
        width: D of the transformer.
        num_layers: Number of blocks.
        num_heads: Attention heads; divides D.
        mlp_ratio: Hidden width of the MLPs relative to D.
        layer_norm_eps: Epsilon of the LayerNorms.
        shared_frame_type: Use one type embedding for both frames; positions still tell them apart.
        projection: From D to C: "linear" or "tanh_mlp".
        normalize_latent: Normalize each latent token over its C dimensions.
    """

    token_types: Tensor

    def __init__(
        self,
        *,
        feature_width: int,
        num_frame_tokens: int,
        num_latent_tokens: int,
        latent_dim: int,
        width: int,
        num_layers: int,
        num_heads: int,
        mlp_ratio: float,
        layer_norm_eps: float,
        shared_frame_type: bool,
        projection: str,
        normalize_latent: bool,
    ) -> None:
        super().__init__()
        self.num_latent_tokens = num_latent_tokens
        self.normalize_latent = normalize_latent
        num_tokens = num_latent_tokens + 2 * num_frame_tokens + 1
        self.feature_projection = nn.Linear(feature_width, width)
        self.queries = embedding(1, num_latent_tokens, width)
        self.separator = embedding(1, 1, width)
        self.position = embedding(1, num_tokens, width)
        self.frame_type = embedding(2, width)
        future_type = 0 if shared_frame_type else 1
        token_types = torch.zeros(num_tokens, dtype=torch.long)
        token_types[-num_frame_tokens:] = future_type
        self.register_buffer("token_types", token_types, persistent=False)
        self.transformer = Transformer(
            width=width,
            num_layers=num_layers,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            eps=layer_norm_eps,
            cross_attention=False,
        )
        self.head = latent_projection(projection, width, width, latent_dim)
        self.apply(init_linear)

    def forward(self, current: Tensor, future: Tensor) -> Tensor:
        """Infers the latent action.

        Args:
            current: (B, P, feature_width) tokens of o_t.
            future: (B, P, feature_width) tokens of o_{t+K}.

        Returns:
            (B, L, C) latent action, float32.
        """
        batch_size = current.shape[0]
        tokens = torch.cat(
            [
                self.queries.expand(batch_size, -1, -1),
                self.feature_projection(current),
                self.separator.expand(batch_size, -1, -1),
                self.feature_projection(future),
            ],
            dim=1,
        )  # (B, L + P + 1 + P, D)
        tokens = tokens + self.position + self.frame_type[self.token_types]
        latent = self.head(self.transformer(tokens)[:, : self.num_latent_tokens]).float()  # (B, L, C)
        return F.layer_norm(latent, latent.shape[-1:]) if self.normalize_latent else latent
