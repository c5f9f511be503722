"""Numbers that tell a working latent action model from a collapsed one; a constant LAM fails each of them.

Shapes: B batch, L latent-action tokens, C latent width.
"""

import torch
from torch import Tensor, nn

WINDOW = 100


def valid_mean(values: Tensor, valid: Tensor | None) -> Tensor:
    """Mean over the first dimension, (B, ...) -> (...), of the samples that `valid` (B,) marks; 0 if there is none.

    Of this process alone, and without waiting for the device.
    """
    if valid is None:
        return values.mean(0)
    weights = valid.to(values.dtype).view(-1, *[1] * (values.ndim - 1))
    return (values * weights).sum(0) / weights.sum().clamp(min=1)


def psnr(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio in dB, from the error of all images together.

    Args:
        prediction: (B, 3, h, w), about in [0, 1].
        target: (B, 3, h, w) in [0, 1].
        valid: (B,) bool, images that count; None is all.

    Returns:
        Scalar, at most 100: the copy of a still frame is perfect.
    """
    error = (prediction - target).square().flatten(1).mean(1)  # (B,)
    return -10 * valid_mean(error, valid).clamp(min=1e-10).log10()


def effective_rank(latent: Tensor, valid: Tensor | None = None) -> Tensor:
    """Participation ratio of the covariance's eigenvalues, (sum)^2 / sum of squares.

    About the number of directions in which latent actions vary: 1 when all lie on a line, 0 when they are
    constant, and at most L*C.

    Args:
        latent: (B, L, C), or (B, Z).
        valid: (B,) bool, rows that count; None is all.

    Returns:
        Scalar.
    """
    flat = latent.flatten(1).float()  # (B, L*C)
    weights = torch.ones_like(flat[:, :1]) if valid is None else valid[:, None].to(flat.dtype)
    centered = (flat - valid_mean(flat, valid)) * weights
    variance = centered.square().sum()
    gram = centered @ centered.T if len(flat) < flat.shape[1] else centered.T @ centered  # same eigenvalues
    # Rounding noise has full rank: below a thousandth of the latents' own size there is no variation.
    varies = variance > 1e-6 * (flat * weights).square().sum()
    return torch.where(
        varies, variance.square() / gram.square().sum().clamp(min=torch.finfo(flat.dtype).tiny), 0
    )


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

    def forward(self, code_indices: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Counts the codes of a batch.

        Args:
            code_indices: (B, ...) int64.
            valid: (B,) bool, samples that count; None is all.

        Returns:
            The codebook's perplexity and its number of live codes, scalars. In eval mode only the given codes count.
        """
        weights = torch.ones_like(code_indices) if valid is None else _like(valid, code_indices)
        counts = torch.zeros_like(self.counts[0]).index_add(
            0, code_indices.flatten().long(), weights.flatten().to(self.counts)
        )
        if self.training:
            if self.num_batches % WINDOW == 0:
                self.counts.copy_(torch.stack([self.counts[1], torch.zeros_like(counts)]))
            self.num_batches += 1
            self.counts[1] += counts
            counts = self.counts.sum(0)
        share = counts / counts.sum().clamp(min=1)
        return torch.special.entr(share).sum().exp(), (counts > 0).sum()


def _like(valid: Tensor, values: Tensor) -> Tensor:
    """(B,) -> the shape of `values` (B, ...)."""
    return valid.view(-1, *[1] * (values.ndim - 1)).expand_as(values)
