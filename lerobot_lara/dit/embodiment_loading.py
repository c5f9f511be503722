"""Loading the per-embodiment layers of a checkpoint by the names of their rows, so that their tables can grow."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lerobot_lara.dit.blocks import EmbodimentLinear


@contextmanager
def rows_by_name(module: nn.Module, saved: Sequence[str], wanted: Sequence[str]) -> Iterator[None]:
    """Lets `module.load_state_dict` take a state whose `EmbodimentLinear` layers have other rows.

    Inside this context each row is copied, bit for bit, to the position of its name in `wanted`. Rows whose names are
    not in `saved` keep the values that they have in `module`. Everything else loads as usual.

    Args:
        module: Built for `wanted`; any module that holds `EmbodimentLinear` layers.
        saved: Names of the state's rows, in order.
        wanted: Names of the module's rows, in order; it includes all of `saved`.
    """
    rows = [wanted.index(name) for name in saved]

    def arrange(
        layer: nn.Module,
        state: dict[str, Tensor],
        prefix: str,
        metadata: Any,
        strict: bool,
        missing: list[str],
        unexpected: list[str],
        errors: list[str],
    ) -> None:
        for name, parameter in layer.named_parameters():
            table = state.get(prefix + name)
            if table is None or table.shape[1:] != parameter.shape[1:]:
                continue  # load_state_dict reports it
            if len(table) != len(saved):
                errors.append(f"{prefix}{name} has {len(table)} rows for the embodiments {list(saved)}.")
                continue
            arranged = parameter.detach().clone()
            arranged[rows] = table.to(arranged)
            state[prefix + name] = arranged

    layers = [layer for layer in module.modules() if isinstance(layer, EmbodimentLinear)]
    hooks = [layer.register_load_state_dict_pre_hook(arrange) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
