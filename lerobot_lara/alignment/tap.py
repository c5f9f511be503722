"""Reads the hidden states of one block during a forward pass."""

from types import TracebackType
from typing import Any

from torch import Tensor, nn

from lerobot_lara.policy.alignment_contract import TapPoint


class HiddenStateTap:
    """A hook that keeps hidden states while armed: `with tap: policy(...)`, then `tap.take()`.

    It is installed once, at construction, because `torch.compile` ignores hooks added later. Each `with`
    takes the first call only: gradient checkpointing runs the block again during the backward pass.

    Args:
        point: Where to read.
    """

    def __init__(self, point: TapPoint) -> None:
        self._point = point
        self._armed = False
        self._hidden_states: Tensor | None = None
        if point.side == "input":
            point.module.register_forward_pre_hook(self._keep_input)
        else:
            point.module.register_forward_hook(self._keep_output)

    def __enter__(self) -> "HiddenStateTap":
        self._armed, self._hidden_states = True, None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._armed = False

    def take(self) -> Tensor:
        """Returns the kept hidden states and forgets them.

        Raises:
            RuntimeError: The module did not run.
        """
        hidden_states, self._hidden_states = self._hidden_states, None
        if hidden_states is None:
            raise RuntimeError(
                f"The tapped {type(self._point.module).__name__} did not run: the policy's forward bypasses it. Tap a "
                "module that is called as such, or the input of the one after it."
            )
        return hidden_states

    def _keep_input(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._keep(inputs)

    def _keep_output(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._keep((output,) if isinstance(output, Tensor) else output)

    def _keep(self, values: Any) -> None:
        if self._armed:
            self._hidden_states = values[self._point.index]
            self._armed = False
