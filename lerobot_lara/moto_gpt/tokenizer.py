"""What makes the codes that Moto-GPT learns: a latent action model (LAM), at work in every step or before, as labels.

Legend: B batch, T latent steps, L latent tokens of a step, H height and W width.
"""

import hashlib
from typing import Any

import torch
from torch import Tensor

from lerobot_lara.lam import artifact
from lerobot_lara.lam.latent_action_model import LatentActionModel
from lerobot_lara.training.randomness import own_randomness


def tokenizer_of(labels: Any) -> dict[str, Any]:
    """Sizes and fingerprint of the codes in labels.

    Args:
        labels: Their manifest.

    Raises:
        ValueError: There are no labels.
    """
    if labels is None:
        raise ValueError(
            "`latent_source` is 'labels', but the data has none. Run `lara label`, and pass its folder as "
            "--policy.lam_labels, or as `labels` of the entries of a mixture file."
        )
    names = ("num_latent_tokens", "codebook_size", "codebook_per_token", "tokenizer")
    return {name: getattr(labels, name) for name in names}


def read_tokenizer(lam_path: str | None, frame_gap: int) -> dict[str, Any]:
    """Sizes and fingerprint of the codes of a LAM.

    Raises:
        ValueError: There is no LAM, it is continuous, or has another frame gap.
    """
    if lam_path is None:
        raise ValueError("`latent_source` is 'lam', but `lam_path` is missing. Pass --policy.lam_path.")
    # The policy's own start is the same as with labels.
    with own_randomness(0, torch.device("cpu")):
        lam = LatentActionModel.from_pretrained(lam_path)
    if lam.quantizer.codebook_size is None:
        raise ValueError(
            f"`lam_path` is {lam_path}, a continuous latent action model without codes. Give it some with `lara label "
            "--codebook-size=32`, and pass --policy.lam_labels; or train one with --policy.quantizer=vq or fsq."
        )
    if lam.frame_gap != frame_gap:
        raise ValueError(
            f"`frame_gap` is {frame_gap}; it must be {lam.frame_gap}, as in the latent action model {lam_path}. Pass "
            f"--policy.frame_gap={lam.frame_gap}."
        )
    parts = [artifact.digest(lam_path), lam.settings_sha256, ""]
    return {
        "num_latent_tokens": lam.num_latent_tokens,
        "codebook_size": lam.quantizer.codebook_size,
        "codebook_per_token": False,
        # As `LabelManifest.tokenizer`, so that labels and their model are the same.
        "tokenizer": hashlib.sha256("\n".join(parts).encode()).hexdigest(),
    }


@torch.no_grad()
def infer_codes(lam: LatentActionModel, frames: Tensor) -> Tensor:
    """Infers the codes between successive frames.

    Args:
        lam: In eval mode, with a codebook.
        frames: (B, T + 1, 3, H, W) in [0, 1].

    Returns:
        (B, T, L) int64.
    """
    tokens = lam.frame_encoder(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])  # (B, T + 1, P, D)
    current, future = tokens[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(0, 1)
    codes = lam.encode(None, frame_tokens=(current, future)).code_indices
    assert codes is not None
    return codes.unflatten(0, (len(frames), -1))
