"""Counts where a computation makes the host wait for the device, on a machine that has only the host."""

from collections import Counter

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

READS = {"item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__", "__array__"}
DATA_DEPENDENT = {
    "nonzero",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "masked_select",
    "equal",
    "bincount",
}


class _Reads(TorchFunctionMode):
    def __init__(self, counts):
        self.counts = counts

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in READS or (
            name == "to" and "cpu" in [argument for argument in args[1:] if isinstance(argument, str)]
        ):
            self.counts[name] += 1
        return function(*args, **kwargs or {})


class _DataDependentShapes(TorchDispatchMode):
    def __init__(self, counts):
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        if name in DATA_DEPENDENT:
            self.counts[name] += 1
        if name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        ):
            self.counts["boolean index"] += 1
        return function(*args, **kwargs or {})


def count_host_reads(run):
    """Names and numbers of the waits in `run()`."""
    counts = Counter()
    with _Reads(counts), _DataDependentShapes(counts):
        run()
    return counts
