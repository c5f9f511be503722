"""What the processes of one training know together, so that several see what one would with all their batches.

Gradients are averaged over processes (DDP, FSDP). Every function is the identity in a single process, and has to be
called by all of them. W is the number of processes.
"""

import torch
from torch import Tensor, distributed


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Averages over the valid elements of all processes.

    Normalizing by the valid elements keeps a loss from shrinking with the share of padding. Each process divides by the
    mean count of all, so that the average over processes is the mean over all their valid elements.

    Args:
        values: Any shape.
        mask: bool, broadcastable to `values`; None is all True.

    Returns:
        Scalar; 0, still in the graph, where nothing is valid.
    """
    if mask is None:
        return values.mean()
    weights = mask.expand_as(values).to(values.dtype)
    count = mean_over_processes(weights.sum())
    # A process may hold less than one of the few valid elements; nothing divides by 0 all the same.
    return (values * weights).sum() / count.clamp(min=1e-6)


def mean_over_processes(x: Tensor) -> Tensor:
    """The mean of `x` over all processes, without a gradient."""
    x = x.detach().clone()
    if is_distributed():
        distributed.all_reduce(x)
        x = x / distributed.get_world_size()
    return x


def gather(x: Tensor) -> Tensor:
    """The rows of all processes.

    Args:
        x: (B, ...), of the same shape in all processes.

    Returns:
        (W * B, ...). Gradients reach this process's own rows, W times over: a loss of all rows, which every process
        computes alike, keeps its gradient when the processes' gradients are averaged.
    """
    if not is_distributed():
        return x
    rows = [
        torch.empty_like(x, memory_format=torch.contiguous_format)
        for _ in range(distributed.get_world_size())
    ]
    distributed.all_gather(rows, x.detach().contiguous())
    if x.requires_grad:
        world_size = len(rows)
        rows[distributed.get_rank()] = world_size * x - (world_size - 1) * x.detach()
    return torch.cat(rows)


def is_distributed() -> bool:
    """Whether there are several processes."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
