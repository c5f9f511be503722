"""Random numbers that leave the training's own alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Draws from another stream inside, and continues the stream outside where it was.

    What is added to a policy's training then changes none of the policy's own noise and dropout (on the CPU and CUDA).

    Args:
        seed: Of the stream inside.
        device: The device that draws, beside the CPU.
    """
    devices = [device] if device.type == "cuda" else []  # the streams of other accelerators are not put back
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield
