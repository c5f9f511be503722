"""Pre-LayerNorm transformer blocks (ViT, https://arxiv.org/abs/2010.11929), optionally with cross-attention.

Shapes: B batch, N tokens, M context tokens, D width, H attention heads.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head attention with biases everywhere and without dropout.

    Args:
        width: D of tokens and context.
        num_heads: H; divides `width`.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Attends from tokens to a context; for self-attention both are the same.

        Args:
            x: (B, N, D).
            context: (B, M, D).

        Returns:
            (B, N, D).
        """
        query = self.query(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, N, D / H)
        key, value = (
            self.key_value(context).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        )  # 2 x (B, H, M, D / H)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.output(mixed.transpose(1, 2).flatten(2))  # (B, N, D)


class Block(nn.Module):
    """Self-attention, optional cross-attention and MLP, each residual with its LayerNorm in front.

    Args:
        width: D.
        num_heads: Divides `width`.
        mlp_ratio: Hidden width of the MLP relative to D.
        eps: Of the LayerNorms.
        cross_attention: Attend to a context too.
    """

    def __init__(
        self, *, width: int, num_heads: int, mlp_ratio: float, eps: float, cross_attention: bool
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=eps)
        self.attention = Attention(width, num_heads)
        self.cross_norm = nn.LayerNorm(width, eps=eps) if cross_attention else None
        self.cross_attention = Attention(width, num_heads) if cross_attention else None
        self.mlp_norm = nn.LayerNorm(width, eps=eps)
        hidden = int(width * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Applies the block: (B, N, D) [, context (B, M, D)] -> (B, N, D)."""
        normed = self.norm(x)
        x = x + self.attention(normed, normed)
        if self.cross_attention is not None and self.cross_norm is not None:
            assert context is not None
            x = x + self.cross_attention(self.cross_norm(x), context)
        return x + self.mlp(self.mlp_norm(x))


class Transformer(nn.Module):
    """A stack of `Block`s with a final LayerNorm.

    Args:
        width: D.
        num_layers: Number of blocks.
        num_heads: Divides `width`.
        mlp_ratio: Hidden width of the MLPs relative to D.
        eps: Of the LayerNorms.
        cross_attention: Attend to a context too, in every block.
    """

    def __init__(
        self,
        *,
        width: int,
        num_layers: int,
        num_heads: int,
        mlp_ratio: float,
        eps: float,
        cross_attention: bool,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(
                width=width,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                eps=eps,
                cross_attention=cross_attention,
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Applies all blocks: (B, N, D) [, context (B, M, D)] -> (B, N, D)."""
        for block in self.blocks:
            x = block(x, context)
        return self.norm(x)


def embedding(*shape: int) -> nn.Parameter:
    """Returns a learned embedding, initialized as in ViT (truncated normal, standard deviation 0.02)."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(*shape), std=0.02))


def init_linear(module: nn.Module) -> None:
    """Initializes a Linear layer as in MAE (Xavier uniform weight, zero bias); use with `Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def zero_init(module: nn.Module) -> None:
    """Sets a Linear or Conv2d layer to zero; use with `Module.apply`."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        for parameter in module.parameters():
            nn.init.zeros_(parameter)


def latent_projection(kind: str, width_in: int, width_hidden: int, width_out: int) -> nn.Module:
    """Builds a map between transformer width and latent width.

    Args:
        kind: "linear", or "tanh_mlp" (Linear-Tanh-Linear).
        width_in: Width of the input.
        width_hidden: Width inside "tanh_mlp".
        width_out: Width of the output.
    """
    if kind == "linear":
        return nn.Linear(width_in, width_out)
    return nn.Sequential(nn.Linear(width_in, width_hidden), nn.Tanh(), nn.Linear(width_hidden, width_out))
