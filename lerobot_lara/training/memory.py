"""Settings that trade compute for memory, or start-up for speed, and change no result."""

from collections.abc import Iterable
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


def configure_networks(
    *,
    networks: Iterable[nn.Module],
    blocks: Iterable[nn.Module],
    compile_model: bool,
    gradient_checkpointing: bool,
) -> None:
    """Compiles networks and checkpoints the gradients of their blocks, as a configuration asks for.

    Args:
        networks: What to compile.
        blocks: Their transformer blocks, whose inside need not be kept.
        compile_model: See `compile_modules`.
        gradient_checkpointing: See `checkpoint_gradients`.
    """
    if gradient_checkpointing:
        checkpoint_gradients(blocks)
    if compile_model:
        compile_modules(networks)


def class_names(blocks: Iterable[nn.Module]) -> list[str]:
    """Names of the blocks' classes, each once."""
    return list(dict.fromkeys(type(block).__name__ for block in blocks))


def checkpoint_gradients(blocks: Iterable[nn.Module]) -> None:
    """Lets blocks run again during the backward pass instead of keeping what is inside them.

    Only `forward` is wrapped: hooks on a block, such as the alignment's tap, run once, with the first pass.

    Args:
        blocks: Modules that are called as such; changed in place.
    """
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def compile_modules(modules: Iterable[nn.Module]) -> None:
    """Compiles modules in place, at their first call; names in the state dict stay as they are.

    Hooks have to be installed before that call: later ones never run.
    """
    for module in modules:
        module.compile()
