"""The file of a checkpoint that holds its alignment: head, slow copy of the latent action model, and where it began."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from lerobot_lara.policy.checkpoint_files import Checkpoint

ALIGNMENT_FILE = "alignment.safetensors"
# Entry of the file's metadata: fingerprint of what the alignment started with: a latent action model's weights, or a
# target that needs none.
ORIGIN = "lam_origin"


def read_origin(checkpoint: Checkpoint) -> str:
    """Fingerprint of what the checkpoint's alignment started with.

    Raises:
        ValueError: The file is missing or damaged.
    """
    with _opened(checkpoint) as opened:
        return (opened.metadata() or {}).get(ORIGIN, "")


def read_alignment(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Tensors of the checkpoint's alignment.

    Raises:
        ValueError: The file is missing or damaged.
    """
    with _opened(checkpoint) as opened:
        return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  is no dict


@contextmanager
def _opened(checkpoint: Checkpoint) -> Iterator[Any]:
    file = checkpoint.file(ALIGNMENT_FILE)
    if file is None:
        raise ValueError(
            f"Corrupted checkpoint: {checkpoint.path} has a LAM but no {ALIGNMENT_FILE}. Copy or download it again."
        )
    try:
        with safe_open(file, "pt") as opened:
            yield opened
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"Corrupted checkpoint: {file} cannot be read ({error}). Copy or download it again."
        ) from error
