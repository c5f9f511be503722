"""Latent actions of every frame of an episode, for which each frame is decoded and encoded once.

A pair (o_t, o_{t+K}) needs the tokens of two frames that are K apart. Tokens are kept until the later frame has come,
so that memory holds K frames' tokens and one window of frames, however long the episode.

Legend: N frames, K frame gap, L latent-action tokens, C latent width, R versions of each frame, H height and W width.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lerobot_lara.lam.latent_action_model import LatentActionModel, LatentActionOutput
from lerobot_lara.training.augmentation import random_shift


@contextmanager
def computing_in(precision: str, device: torch.device) -> Iterator[None]:
    """Sets the arithmetic of a LAM.

    Args:
        precision: "float32", "tf32" or "bfloat16".
        device: Where it computes.

    Raises:
        ValueError: The device has no TF32.
    """
    if precision == "tf32" and device.type != "cuda":
        raise ValueError(
            f"`precision` is 'tf32', which {device.type!r} does not have. Pass --device=cuda, or --precision=float32."
        )
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@dataclass(frozen=True)
class EpisodeLabels:
    """The latent actions of an episode; rows that are not valid hold zeros, and codes of -1.

    Attributes:
        valid: (N,) bool, False at the last K frames.
        latent_action: (N, R, L * C) float32, before quantization.
        code_indices: (N, R, L) int64; None for a continuous LAM.
        no_motion: (N, R, L * C) float32 latent actions of the pairs (o_t, o_t); None if they were not asked for.
    """

    valid: np.ndarray
    latent_action: np.ndarray
    code_indices: np.ndarray | None
    no_motion: np.ndarray | None

    @classmethod
    def invalid(
        cls, lam: LatentActionModel, length: int, versions: int, *, no_motion: bool
    ) -> "EpisodeLabels":
        """Labels of an episode of which no row is valid."""
        width = lam.num_latent_tokens * lam.latent_dim
        codes = np.full((length, versions, lam.num_latent_tokens), -1, np.int64)
        return cls(
            valid=np.zeros(length, bool),
            latent_action=np.zeros((length, versions, width), np.float32),
            code_indices=None if lam.quantizer.codebook_size is None else codes,
            no_motion=np.zeros((length, versions, width), np.float32) if no_motion else None,
        )


@torch.no_grad()
def label_episode(
    lam: LatentActionModel,
    windows: Iterable[Tensor],
    *,
    length: int,
    shifts: np.ndarray,
    no_motion: bool,
) -> EpisodeLabels:
    """Labels the frames of one episode.

    Args:
        lam: In eval mode.
        windows: The frames in order, in parts (n, 3, H, W) uint8; not looked at if the episode is not longer than K.
        length: N.
        shifts: (R, 2) pixels (down, right) by which the frames of each version are shifted.
        no_motion: Also infer the latent actions of no motion.

    Returns:
        The labels.

    Raises:
        ValueError: A latent action is not finite.
    """
    labels = EpisodeLabels.invalid(lam, length, len(shifts), no_motion=no_motion)
    if length <= lam.frame_gap:
        return labels
    device = next(lam.parameters()).device
    versions = [_Pairing(lam, torch.from_numpy(shift).to(device)) for shift in shifts]
    for window in windows:
        frames = window.to(device).float() / 255
        for number, version in enumerate(versions):
            first = version.done
            current, output = version.add(frames)
            if output is None or current is None:
                continue
            rows = slice(first, version.done)
            labels.valid[rows] = True
            labels.latent_action[rows, number] = output.latent_action.flatten(1).float().cpu().numpy()
            if labels.code_indices is not None and output.code_indices is not None:
                labels.code_indices[rows, number] = output.code_indices.cpu().numpy()
            if labels.no_motion is not None:
                labels.no_motion[rows, number] = lam.no_motion(current).flatten(1).float().cpu().numpy()
    if not all(
        np.isfinite(values).all() for values in (labels.latent_action, labels.no_motion) if values is not None
    ):
        raise ValueError(
            "The latent action model puts out values that are not finite. Use an earlier checkpoint of it."
        )
    return labels


class _Pairing:
    """The frames of an episode, all shifted alike, on their way into pairs.

    Attributes:
        done: Pairs that are complete so far.
    """

    def __init__(self, lam: LatentActionModel, shift: Tensor) -> None:
        self.done = 0
        self._lam, self._shift = lam, shift
        self._waiting: Tensor | None = None

    def add(self, frames: Tensor) -> tuple[Tensor | None, LatentActionOutput | None]:
        """Takes the next frames.

        Args:
            frames: (n, 3, H, W) in [0, 1].

        Returns:
            The tokens (m, P, D) of the m frames whose partner has come, and their latent actions; None without any.
        """
        shifts = self._shift.expand(len(frames), -1)
        tokens = self._lam.frame_encoder(random_shift(frames, int(self._shift.abs().max()), shifts=shifts))
        waiting = tokens if self._waiting is None else torch.cat([self._waiting, tokens])
        pairs = max(0, len(waiting) - self._lam.frame_gap)
        self._waiting = waiting[pairs:].clone()  # a view would keep the tokens that are done
        if not pairs:
            return None, None
        self.done += pairs
        current = waiting[:pairs]
        return current, self._lam.encode(None, frame_tokens=(current, waiting[self._lam.frame_gap :]))
