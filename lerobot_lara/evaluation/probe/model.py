"""The interface that the probe needs from a latent action model, and a trained model behind it.

Shapes: N pairs, L latent-action tokens, C latent width, D = L * C, F feature width.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lerobot_lara.lam.latent_action_model import LatentActionModel


@dataclass(frozen=True)
class Latents:
    """Latent actions of frame pairs.

    Attributes:
        continuous: (N, D) float32 before quantization, which policies are aligned to.
        quantized: (N, D) float32 input of `decode`; equal to `continuous` without a quantizer.
        codes: (N, L) int64 indices in the codebook, or None without a quantizer.
    """

    continuous: Tensor
    quantized: Tensor
    codes: Tensor | None = None


class ProbedModel(Protocol):
    """A model that describes what happened between two frames.

    Frames are RGB in [0, 1]. All inputs and outputs are on the CPU.

    Attributes:
        frame_gap: K, in frames.
        image_size: Side in pixels at which the model looks at frames; larger frames are not needed.
        codebook_size: Number of codes, or None without a quantizer.
        decodes: Whether `decode` predicts frames.
    """

    frame_gap: int
    image_size: int
    codebook_size: int | None
    decodes: bool

    def encode(self, frames: Tensor) -> Latents:
        """Returns the latent actions of pairs (N, 2, 3, H, W)."""

    def features(self, images: Tensor) -> Tensor:
        """Returns the frame encoder's features (N, F) of single images (N, 3, H, W)."""

    def decode(self, images: Tensor, quantized: Tensor) -> Tensor:
        """Predicts frames (N, 3, h, h) from images (N, 3, H, W) and `Latents.quantized` (N, D)."""


class CheckpointModel:
    """A trained `LatentActionModel` as a `ProbedModel`.

    Args:
        lam: The model, which is moved to the device and set to eval mode.
        device: Device on which it computes.
    """

    def __init__(self, lam: LatentActionModel, *, device: str) -> None:
        self.lam = lam.to(device).eval()
        self.device = device
        self.frame_gap = lam.frame_gap
        self.image_size = lam.settings.image_size
        self.codebook_size = lam.quantizer.codebook_size
        self.decodes = lam.forward_dynamics.pixel_head is not None
        self._latent_shape = (lam.num_latent_tokens, lam.latent_dim)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Latents:
        """Implements `ProbedModel.encode`."""
        output = self.lam.encode(frames.to(self.device))
        codes = None if output.code_indices is None else output.code_indices.cpu()
        return Latents(
            output.latent_action.flatten(1).float().cpu(),
            output.quantized_latent_action.flatten(1).float().cpu(),
            codes,
        )

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Implements `ProbedModel.features` as the mean over the frame encoder's tokens."""
        return self.lam.frame_encoder(images.to(self.device)).float().mean(1).cpu()  # (N, P, F) -> (N, F)

    @torch.no_grad()
    def decode(self, images: Tensor, quantized: Tensor) -> Tensor:
        """Implements `ProbedModel.decode`."""
        latent = quantized.to(self.device).unflatten(1, self._latent_shape)  # (N, D) -> (N, L, C)
        return self.lam.decode(images.to(self.device), latent).float().cpu()
