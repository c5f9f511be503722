"""Numbers for the log, read from the device together.

Every read waits until the device has done all it was given; a training step therefore reads once, at its end.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


def read_numbers(log: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Turns scalars on a device into plain numbers, as LeRobot's log takes them, in one transfer.

    Args:
        log: Scalars by name; tensors have one element.

    Returns:
        The same names in the same order, as floats. NaN stays NaN.
    """
    tensors = {name: value for name, value in log.items() if isinstance(value, Tensor)}
    if not tensors:
        return {name: float(value) for name, value in log.items()}
    device = next(iter(tensors.values())).device
    stacked = torch.stack([value.detach().float().reshape(()).to(device) for value in tensors.values()])
    numbers = dict(zip(tensors, stacked.tolist(), strict=True))
    return {name: numbers[name] if name in numbers else float(value) for name, value in log.items()}
