"""Numbers that tell a working latent action model from a collapsed one; a constant LAM fails each of them.

Shapes: B batch, L latent-action tokens, C latent width.
"""

import torch
from torch import Tensor, nn

WINDOW = 100


def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of images (B, 3, h, w) in [0, 1], from the error of all together."""
    # Bounded at 100 dB: the copy of a still frame is perfect.
    return -10 * (prediction - target).square().mean().clamp(min=1e-10).log10()


def effective_rank(latent: Tensor) -> Tensor:
    """Participation ratio of the covariance's eigenvalues, (sum)^2 / sum of squares.

    About the number of directions in which latent actions vary: 1 when all lie on a line, 0 when they are
    constant, and at most L*C.

    Args:
        latent: (B, L, C).
    """
    flat = latent.flatten(1).float()  # (B, L*C)
    centered = flat - flat.mean(0)
    variance = centered.square().sum()
    # Rounding noise has full rank: below a thousandth of the latents' own size there is no variation.
    if variance <= 1e-6 * flat.square().sum():
        return variance.new_zeros(())
    gram = centered @ centered.T if len(flat) < flat.shape[1] else centered.T @ centered  # same eigenvalues
    return variance.square() / gram.square().sum()


class CodeUsage(nn.Module):
    """Counts which codes were used lately, over the last 100 to 200 training batches.

    Args:
        codebook_size: Number of codes.
    """

    counts: Tensor

    def __init__(self, codebook_size: int) -> None:
        super().__init__()
        self.num_batches = 0
        self.register_buffer("counts", torch.zeros(2, codebook_size), persistent=False)

    def forward(self, code_indices: Tensor) -> tuple[Tensor, Tensor]:
        """Takes codes of any shape (int64) and returns the codebook's perplexity and number of live codes.

        In eval mode only the given codes count.
        """
        counts = torch.bincount(code_indices.flatten(), minlength=self.counts.shape[1]).to(self.counts)
        if self.training:
            if self.num_batches % WINDOW == 0:
                self.counts.copy_(torch.stack([self.counts[1], torch.zeros_like(counts)]))
            self.num_batches += 1
            self.counts[1] += counts
            counts = self.counts.sum(0)
        share = counts / counts.sum().clamp(min=1)
        return torch.special.entr(share).sum().exp(), (counts > 0).sum()
