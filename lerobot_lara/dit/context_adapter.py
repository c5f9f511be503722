"""Trained layers between a frozen encoder, such as a vision-language model, and the action head (as in GR00T N1.5).

Legend: B batch, M context tokens, W width of the context.
"""

from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn


class ContextAdapter(nn.Module):
    """LayerNorm, then transformer blocks of self-attention over the context tokens.

    Unlike the reference, it does not attend to padded tokens, and applies one dropout to attention's output, not two.

    Args:
        width: W.
        num_layers: Number of blocks; with 0 there is only the LayerNorm.
        num_heads: Attention heads; divides `width`.
        dropout: Inside attention and MLP, and after them; in [0, 1).
    """

    def __init__(self, *, width: int, num_layers: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            BasicTransformerBlock(
                dim=width,
                num_attention_heads=num_heads,
                attention_head_dim=width // num_heads,
                dropout=dropout,
                activation_fn="gelu-approximate",
                attention_bias=True,
                final_dropout=True,
            )
            for _ in range(num_layers)
        )

    def forward(self, context: Tensor, mask: Tensor) -> Tensor:
        """Adapt the context tokens.

        Args:
            context: (B, M, W) tokens.
            mask: (B, M) bool, False at padding, which no token attends to.

        Returns:
            (B, M, W); values at padding have no meaning.
        """
        context = self.norm(context)
        for block in self.blocks:
            context = block(context, attention_mask=mask[:, None])  # the mask: (B, 1, M)
        return context
