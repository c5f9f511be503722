"""Settings that trade compute for memory, or start-up for speed, and change no result."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

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


@contextmanager
def remember_outputs(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, each module computes its output once and then returns it again: for inputs that stay the same.

    The steps of a flow see the same observation, whose projections to keys and values cost more than all else.
    """
    # A module may already have a `forward` of its own, beside its class's.
    before = [(module, vars(module).get("forward")) for module in modules]
    for module, _ in before:
        module.forward = _once(module.forward)
    try:
        yield
    finally:
        for module, forward in before:
            del module.forward
            if forward is not None:
                module.forward = forward


def _once(function: Callable[..., Any]) -> Callable[..., Any]:
    outputs: list[Any] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        if not outputs:
            outputs.append(function(*args, **kwargs))
        return outputs[0]

    return call
