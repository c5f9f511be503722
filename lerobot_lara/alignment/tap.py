"""Reads the hidden states of one block during a forward pass."""

from types import TracebackType

from torch import Tensor, nn


class HiddenStateTap:
    """A forward hook that keeps a block's output while armed: `with tap: policy(...)`, then
    `tap.hidden_states`.

    It is installed once, at construction, because `torch.compile` ignores hooks added later. Each `with`
    takes the first output only: gradient checkpointing runs the block again during the backward pass.
    """

    def __init__(self, block: nn.Module) -> None:
        self._armed = False
        self._hidden_states: Tensor | None = None
        block.register_forward_hook(self._keep)

    def __enter__(self) -> "HiddenStateTap":
        self._armed, self._hidden_states = True, None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._armed = False

    def take(self) -> Tensor:
        """The kept (B, N, D) output; handing it over frees it here."""
        hidden_states, self._hidden_states = self._hidden_states, None
        if hidden_states is None:
            raise RuntimeError("The tapped block did not run: the policy's forward bypasses it.")
        return hidden_states

    def _keep(
        self, block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]
    ) -> None:
        if self._armed:
            self._hidden_states = output if isinstance(output, Tensor) else output[0]
            self._armed = False
