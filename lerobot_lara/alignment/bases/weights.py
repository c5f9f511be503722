"""Whether a policy has the weights of its checkpoint: several of LeRobot's policies go on without some of them."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.constants import SAFETENSORS_INDEX_FILE, SAFETENSORS_SINGLE_FILE
from safetensors import safe_open
from torch import Tensor, nn

from lerobot_lara.files.checkpoint_reading import read_json_object
from lerobot_lara.policy.checkpoint_files import Checkpoint

logger = logging.getLogger(__name__)

# What alignment adds to a policy's state, and keeps in files of its own.
NOT_OF_THE_BASE = ("lam.", "alignment.", "slow_lam.")
# What a file may have for both, as pi0's and pi0.5's.
EMBEDDING, OUTPUT = "embed_tokens.weight", "lm_head.weight"
# This many tensors are compared by value.
COMPARED = 3


def check_weights(
    policy: nn.Module,
    checkpoint: Checkpoint,
    *,
    prefixes: tuple[str, ...] = ("",),
    reinitialized: tuple[str, ...] = (),
) -> None:
    """Compares names and shapes of all weights with the checkpoint's files, and some by value.

    Args:
        policy: The loaded policy.
        checkpoint: What it was loaded from.
        prefixes: What may stand before a name of the file in the policy.
        reinitialized: Beginnings of names of weights that may start anew, which are not compared.

    Raises:
        ValueError: A weight of the policy is not in the files, has another shape, or was not loaded.
    """
    state = {k: v for k, v in policy.state_dict().items() if not k.startswith(NOT_OF_THE_BASE)}
    with _opened(checkpoint) as stored:
        if not stored:
            return
        found = {
            prefix + name: Stored(file, name)
            for name, file in stored.items()
            for prefix in prefixes
            if prefix + name in state
        }
        _check_names(state, found, checkpoint)
        if unused := len(stored) - len({weight.name for weight in found.values()}):
            logger.warning("%d weights of %s have no place in the policy.", unused, checkpoint.path)
        kept = {name: weight for name, weight in found.items() if not name.startswith(reinitialized)}
        _check_shapes(state, kept, checkpoint)
        _check_values(state, kept, checkpoint)


@dataclass(frozen=True)
class Stored:
    """A weight in an open file.

    Args:
        file: The file.
        name: Its name there.
    """

    file: Any
    name: str


def _check_names(state: dict[str, Tensor], found: dict[str, Stored], checkpoint: Checkpoint) -> None:
    shared = {state[name].data_ptr() for name in found}
    missing = [
        name
        for name, value in state.items()
        if name not in found and value.numel() and value.data_ptr() not in shared
        if not _is_output_layer(name, state, found)
    ]
    if missing:
        raise ValueError(
            f"The weights of {checkpoint.path} lack {len(missing)} of the policy's, such as {missing[:3]}, which would "
            "stay at their random start. Keep the checkpoint's own sizes; if they are unchanged, download it again."
        )


def _check_shapes(state: dict[str, Tensor], found: dict[str, Stored], checkpoint: Checkpoint) -> None:
    for name, weight in found.items():
        shape = tuple(weight.file.get_slice(weight.name).get_shape())
        if shape != tuple(state[name].shape):
            raise ValueError(
                f"`{weight.name}` of {checkpoint.path} has shape {shape}, but the policy's is "
                f"{tuple(state[name].shape)}. Keep the checkpoint's own sizes."
            )


def _check_values(state: dict[str, Tensor], found: dict[str, Stored], checkpoint: Checkpoint) -> None:
    names = sorted(name for name in found if state[name].is_floating_point())
    for name in names[:: max(1, len(names) // COMPARED)][:COMPARED]:
        stored = found[name].file.get_tensor(found[name].name)
        if not torch.equal(state[name].cpu(), stored.to(state[name].dtype)):
            raise ValueError(
                f"`{name}` was not loaded from {checkpoint.path}: the policy has other values. This LeRobot may not "
                "read that checkpoint."
            )


def _is_output_layer(name: str, state: dict[str, Tensor], found: Iterable[str]) -> bool:
    """Whether a weight is an embedding that the file has once, as the output layer."""
    if not name.endswith(EMBEDDING):
        return False
    outputs = [state[other] for other in found if other.endswith(OUTPUT)]
    return any(torch.equal(state[name], output) for output in outputs)


@contextmanager
def _opened(checkpoint: Checkpoint) -> Iterator[dict[str, Any]]:
    """Yields the name of each stored weight with the open file that has it; empty where there are no such files."""
    index = checkpoint.file(SAFETENSORS_INDEX_FILE)
    names = (
        [SAFETENSORS_SINGLE_FILE]
        if index is None
        else sorted(set(read_json_object(index)["weight_map"].values()))
    )
    paths = [path for name in names if (path := checkpoint.file(name)) is not None]
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(path, "pt")) for path in paths]
        yield {key: file for file in files for key in file.keys()}  # noqa: SIM118  is no dict
