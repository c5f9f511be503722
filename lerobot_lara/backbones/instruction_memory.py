"""What a frozen text encoder made of each instruction.

A dataset has few distinct instructions and the encoder never changes, so each is encoded once.

Shapes: B batch, S tokens.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class InstructionMemory:
    """Remembers tensors by instruction.

    Args:
        max_remembered: Number of instructions beyond which the oldest are forgotten.
    """

    def __init__(self, max_remembered: int = 4096) -> None:
        self.max_remembered = max_remembered
        self._remembered: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()

    def __call__(
        self, input_ids: Tensor, attention_mask: Tensor, encode: Callable[[Tensor, Tensor], Sequence[Tensor]]
    ) -> list[Tensor]:
        """Looks up the instructions of a batch, and encodes those that are new.

        Args:
            input_ids: (B, S) int64.
            attention_mask: (B, S) bool, False at padding.
            encode: Takes rows of both; returns a tensor for each row.

        Returns:
            B tensors, on the device of `input_ids`.
        """
        # One read from the device for the words of all samples.
        words = torch.where(attention_mask.bool(), input_ids, -1).tolist()
        keys = [tuple(token for token in row if token >= 0) for row in words]
        new = {key: row for row, key in enumerate(keys) if key not in self._remembered}
        if new:
            rows = torch.tensor(list(new.values()), device=input_ids.device)
            for key, encoded in zip(new, encode(input_ids[rows], attention_mask[rows].bool()), strict=True):
                self._remembered[key] = encoded
        found = [self._remembered[key].to(input_ids.device) for key in keys]
        while len(self._remembered) > self.max_remembered:
            self._remembered.popitem(last=False)
        return found
