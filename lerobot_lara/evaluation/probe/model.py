"""The interface that the probe needs from a latent action model, and checkpoints behind that interface.

Shapes: N pairs, L latent-action tokens, C latent width, D = L * C, F feature width.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

import lerobot_lara  # noqa: F401  registers the policy types
from lerobot_lara.alignment.checkpoint_lam import GENERIC_PARTS, find_lam
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


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint.

    Attributes:
        path: Folder or Hub id, as passed by the user.
        label: Short name, unique within a report.
        type: Policy type.
        camera: Dataset key of the camera that it was trained on; None if the checkpoint does not record it.
        model: Its latent action model.
    """

    path: str
    label: str
    type: str
    camera: str | None
    model: ProbedModel


def open_checkpoints(paths: list[str], *, device: str) -> list[Checkpoint]:
    """Opens `lara_lam` checkpoints, and the `lam/` of `lara` checkpoints.

    Args:
        paths: Folders or Hub ids.
        device: Device on which the models compute.

    Returns:
        The opened checkpoints, in the same order.

    Raises:
        ValueError: If one is missing, damaged, listed twice, or of a type without a latent action model; or if their
            frame gaps differ.
    """
    if len(set(paths)) < len(paths):
        raise ValueError(
            f"`checkpoints` lists the same checkpoint twice: {', '.join(paths)}. Pass each checkpoint once."
        )
    checkpoints = [_open(path, label, device) for path, label in zip(paths, short_labels(paths), strict=True)]
    gaps = {checkpoint.label: checkpoint.model.frame_gap for checkpoint in checkpoints}
    if len(set(gaps.values())) > 1:
        raise ValueError(
            f"`frame_gap` differs between the checkpoints, {gaps}; it must be the same, because latent actions over "
            "different times cannot be compared. Probe the checkpoints one by one."
        )
    return checkpoints


def short_labels(paths: list[str]) -> list[str]:
    """Returns the last distinctive part of each path, or the whole paths if those parts are not unique."""
    labels = [
        next(
            (
                part
                for part in reversed(Path(path).parts)
                if part not in GENERIC_PARTS and not part.isdigit() and part not in ("/", "..")
            ),
            path,
        )
        for path in paths
    ]
    return labels if len(set(labels)) == len(labels) else list(paths)


def _open(path: str, label: str, device: str) -> Checkpoint:
    found = find_lam(path)
    return Checkpoint(path, label, found.type, found.camera, CheckpointModel(found.load(), device=device))
