"""Numbers that are not finite: found at once, with what they came from."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# Keys of LeRobot's batches that tell where a sample is from.
ORIGIN = ("episode_index", "index")


def require_finite_losses(log: Mapping[str, float], batch: Mapping[str, Any]) -> None:
    """Stops a training at the step whose loss is not finite, before the weights follow it.

    Args:
        log: Numbers of the step, already read from the device; those whose name ends in `loss` are looked at.
        batch: What the policy was given.

    Raises:
        ValueError: Names the loss, and the inputs that are not finite with the samples that they are in.
    """
    losses = {
        name: value for name, value in log.items() if name.endswith("loss") and not math.isfinite(value)
    }
    if losses:
        named = ", ".join(f"`{name}` is {value}" for name, value in losses.items())
        raise ValueError(f"The loss is not finite: {named}. {_cause(batch)}")


def require_finite(tensors: Mapping[str, Tensor], what: str, remedy: str) -> None:
    """Refuses tensors with values that are not finite.

    Args:
        tensors: By name; other than floating-point ones are left aside.
        what: What they are, for the error.
        remedy: What to do, for the error.

    Raises:
        ValueError: Names the first of them.
    """
    bad = [name for name, value in tensors.items() if value.is_floating_point() and not _is_finite(value)]
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise ValueError(f"{what} are not finite: `{bad[0]}`{more}. {remedy}")


def _cause(batch: Mapping[str, Any]) -> str:
    inputs = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
    bad = {n: v for n, v in inputs.items() if v.is_floating_point() and not _is_finite(v)}
    if not bad:
        largest = {
            name: value.abs().max().item()
            for name, value in inputs.items()
            if value.is_floating_point() and value.numel()
        }
        sizes = ", ".join(f"`{name}` up to {size:.3g}" for name, size in largest.items())
        return (
            f"All inputs are finite ({sizes}), so the training has diverged, or a value is too large to be squared. "
            "Lower --policy.optimizer_lr, or look at the data with `lara show-data`."
        )
    name, value = next(iter(bad.items()))
    rows = (~value.isfinite()).reshape(len(value), -1).any(dim=1).nonzero().flatten().tolist()
    places = []
    for row in rows[:3]:
        origin = [f"{key} {int(inputs[key].reshape(-1)[row])}" for key in ORIGIN if key in inputs]
        places.append(f"sample {row}" + (f" ({', '.join(origin)})" if origin else ""))
    return (
        f"`{name}` has values that are not finite, as normalized, in {', '.join(places)}"
        f"{' and others' if len(rows) > 3 else ''}. Repair the dataset and its statistics, or leave out the episode."
    )


def _is_finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())
