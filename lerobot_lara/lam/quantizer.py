"""Quantizers of the latent action: none, vector quantization (EMA or gradient codebook), finite scalars.

All return `(quantized, code_indices | None, loss)`. Shapes: B batch, L latent-action tokens, C latent width.
"""

import torch
from torch import Tensor, nn

from lerobot_lara.lam.losses import masked_mse
from lerobot_lara.training.distributed import is_distributed

Quantized = tuple[Tensor, Tensor | None, Tensor | None]


class Quantizer(nn.Module):
    """Interface of quantizers, and the continuous case: returns the latent, with noise in training.

    Args:
        noise: Standard deviation of the noise, which bounds the information a latent can carry.
    """

    codebook_size: int | None = None

    def __init__(self, *, noise: float) -> None:
        super().__init__()
        self.noise = noise

    def forward(self, latent: Tensor, valid: Tensor | None = None, *, update: bool = False) -> Quantized:
        """Quantizes a latent action.

        Args:
            latent: (B, L, C) float32.
            valid: (B,) bool; other samples neither enter the loss nor move the codebook. None is all True.
            update: This is a training step: add noise, move an EMA codebook.

        Returns:
            The quantized latent (B, L, C) with straight-through gradients, code indices (B, L) int64 or
            None, and the quantizer's loss (scalar) or None where there is none.
        """
        if update and self.noise > 0:
            return latent + self.noise * torch.randn_like(latent), None, None
        return latent, None, None

    def indices_to_latent(self, code_indices: Tensor) -> Tensor:
        """Looks up codes.

        Args:
            code_indices: (B, L) int64.

        Returns:
            (B, L, C) latents.

        Raises:
            ValueError: If latents are continuous, so that there are no codes.
        """
        raise ValueError('`quantizer` is "none"; it must be "vq" or "fsq" to have codes. Train such a model.')


class GradientVQ(Quantizer):
    """Nearest code in L2, learned by gradients (VQ-VAE, https://arxiv.org/abs/1711.00937, eq. 3).

    loss = commitment_weight * mean((sg[q] - z)^2) + codebook_weight * mean((q - sg[z])^2). VQ-VAE weighs
    them 0.25 and 1; the reference, by its `legacy` flag, 1 and 0.25.

    Args:
        codebook_size: Number of codes.
        latent_dim: C.
        commitment_weight: Of the term that pulls latents to codes.
        codebook_weight: Of the term that pulls codes to latents.
    """

    def __init__(
        self, *, codebook_size: int, latent_dim: int, commitment_weight: float, codebook_weight: float
    ) -> None:
        super().__init__(noise=0.0)
        self.codebook_size = codebook_size
        self.commitment_weight, self.codebook_weight = commitment_weight, codebook_weight
        self.codebook = nn.Embedding(codebook_size, latent_dim)
        nn.init.uniform_(self.codebook.weight, -1 / codebook_size, 1 / codebook_size)

    def forward(self, latent: Tensor, valid: Tensor | None = None, *, update: bool = False) -> Quantized:
        """Quantizes a latent action; see `Quantizer.forward`."""
        with torch.autocast(latent.device.type, enabled=False):
            latent = latent.float()
            codes = self.codebook.weight.float()
            distances = (
                latent.square().sum(-1, keepdim=True) + codes.square().sum(-1) - 2 * latent @ codes.T
            )  # (B, L, codebook_size)
            indices = distances.argmin(-1)  # (B, L)
            quantized = self.codebook(indices)
            loss = self.commitment_weight * masked_mse(
                latent, quantized.detach(), valid
            ) + self.codebook_weight * masked_mse(quantized, latent.detach(), valid)
            return latent + (quantized - latent).detach(), indices, loss

    def indices_to_latent(self, code_indices: Tensor) -> Tensor:
        """Looks up codes (B, L) as latents (B, L, C)."""
        return self.codebook(code_indices)


class EMAVectorQuantizer(Quantizer):
    """vector-quantize-pytorch's codebook: moving averages, dead codes restarted, equal on all processes.

    Args:
        codebook_size: Number of codes.
        latent_dim: C.
        decay: Of the moving averages.
        kmeans_init: Start from k-means of the first training batch.
        restart_threshold: Codes used less often than this per batch are replaced; 0 never does.
        commitment_weight: Of the loss, which pulls latents to codes.
    """

    def __init__(
        self,
        *,
        codebook_size: int,
        latent_dim: int,
        decay: float,
        kmeans_init: bool,
        restart_threshold: float,
        commitment_weight: float,
    ) -> None:
        from vector_quantize_pytorch import VectorQuantize

        super().__init__(noise=0.0)
        self.codebook_size = codebook_size
        self.commitment_weight = commitment_weight
        self.vq = VectorQuantize(
            dim=latent_dim,
            codebook_size=codebook_size,
            decay=decay,
            kmeans_init=kmeans_init,
            threshold_ema_dead_code=restart_threshold,
            commitment_weight=0.0,  # Computed here, over valid pairs only.
            sync_codebook=is_distributed(),
        )

    def forward(self, latent: Tensor, valid: Tensor | None = None, *, update: bool = False) -> Quantized:
        """Quantizes a latent action; see `Quantizer.forward`."""
        if not update and not self.vq._codebook.initted:
            raise ValueError(
                "`codebook_kmeans_init` is on and the codebook is still empty. Run a training step first."
            )
        with torch.autocast(latent.device.type, enabled=False):
            latent = latent.float()
            quantized, indices, _ = self.vq(latent, freeze_codebook=True)
            loss = self.commitment_weight * masked_mse(latent, self.indices_to_latent(indices), valid)
            if update:
                self._update_codebook(latent.detach(), indices, valid)
            return quantized, indices, loss

    def indices_to_latent(self, code_indices: Tensor) -> Tensor:
        """Looks up codes (B, L) as latents (B, L, C)."""
        # A copy: the codebook is updated in place.
        return self.vq.get_output_from_indices(code_indices)

    def _update_codebook(self, latent: Tensor, indices: Tensor, valid: Tensor | None) -> None:
        if valid is not None and not valid.any():
            # The update is a collective operation: a process without valid pairs must take part too.
            if not is_distributed():
                return
            valid = None
        mask = None if valid is None else valid[:, None].expand_as(indices)
        self.vq.update_indices(latent, indices, mask=mask)


class FSQuantizer(Quantizer):
    """Finite scalar quantization (https://arxiv.org/abs/2309.15505), by vector-quantize-pytorch.

    Args:
        levels: Levels per quantized dimension; latents are projected linearly to as many dimensions.
        latent_dim: C.
    """

    def __init__(self, *, levels: tuple[int, ...], latent_dim: int) -> None:
        from vector_quantize_pytorch import FSQ

        super().__init__(noise=0.0)
        self.fsq = FSQ(levels=list(levels), dim=latent_dim)
        self.codebook_size = self.fsq.codebook_size

    def forward(self, latent: Tensor, valid: Tensor | None = None, *, update: bool = False) -> Quantized:
        """Quantizes a latent action; see `Quantizer.forward`."""
        with torch.autocast(latent.device.type, enabled=False):
            quantized, indices = self.fsq(latent.float())
        return quantized, indices.long(), None

    def indices_to_latent(self, code_indices: Tensor) -> Tensor:
        """Looks up codes (B, L) as latents (B, L, C)."""
        return self.fsq.indices_to_codes(code_indices)


def build_quantizer(
    kind: str,
    *,
    latent_dim: int,
    noise: float,
    codebook_size: int,
    codebook_update: str,
    codebook_decay: float,
    codebook_kmeans_init: bool,
    codebook_restart_threshold: float,
    commitment_weight: float,
    codebook_weight: float,
    fsq_levels: tuple[int, ...],
) -> Quantizer:
    """Builds a quantizer.

    Args:
        kind: "none", "vq" or "fsq".
        latent_dim: C.
        noise: Of "none": standard deviation of the noise in training.
        codebook_size: Of "vq": number of codes.
        codebook_update: Of "vq": "ema" or "gradient".
        codebook_decay: Of "ema": decay of the moving averages.
        codebook_kmeans_init: Of "ema": start from k-means of the first training batch.
        codebook_restart_threshold: Of "ema": codes used less often than this per batch are replaced; 0 never does.
        commitment_weight: Of "vq": weight of the term that pulls latents to codes.
        codebook_weight: Of "gradient": weight of the term that pulls codes to latents.
        fsq_levels: Of "fsq": levels per quantized dimension.
    """
    if kind == "none":
        return Quantizer(noise=noise)
    if kind == "fsq":
        return FSQuantizer(levels=fsq_levels, latent_dim=latent_dim)
    if codebook_update == "gradient":
        return GradientVQ(
            codebook_size=codebook_size,
            latent_dim=latent_dim,
            commitment_weight=commitment_weight,
            codebook_weight=codebook_weight,
        )
    return EMAVectorQuantizer(
        codebook_size=codebook_size,
        latent_dim=latent_dim,
        decay=codebook_decay,
        kmeans_init=codebook_kmeans_init,
        restart_threshold=codebook_restart_threshold,
        commitment_weight=commitment_weight,
    )
