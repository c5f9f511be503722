"""Shapes that docstrings promise, and whether tensors have them."""

import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

import lerobot_lara

_SIZE = r"(?:\.\.\.|[A-Za-z_]\w*|\d+)"
_TERM = rf"{_SIZE}(?: ?[*+/] ?{_SIZE})*(?: \[\+ \d+\])?"
_DTYPE = "float32|int64|bool"
SHAPE = re.compile(
    rf"(?:(?P<before>{_DTYPE})(?: mask)? )?"
    rf"\((?P<sizes>{_TERM},(?: {_TERM},)*(?: {_TERM})?)\)"
    rf"(?:,? (?P<after>{_DTYPE})\b)?(?P<each> each\b)?"
)
"""A shape such as (B, V * P [+ 1], D), with its dtype, before or after it, and the word "each", if they are there."""
_LEROBOT = re.compile(r"^\s*(?:from|import) (?:lerobot|draccus)\b", re.MULTILINE)


def public_docstrings(folders: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields the docstrings of public functions and methods of some folders' modules that do not import LeRobot.

    Each comes with its name: `function` or `Class.method`. A method is followed by those it overrides, up to the first
    that has `Returns:`. Abstract methods are left out, and inherited ones that are not overridden.
    """
    for folder in folders:
        package = importlib.import_module(f"{lerobot_lara.__name__}.{folder}")
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(info.name)
            if _LEROBOT.search(inspect.getsource(module)):
                continue
            for name, value in _defined_in(module, vars(module)):
                if inspect.isfunction(value):
                    yield name, inspect.getdoc(value) or ""
                elif inspect.isclass(value):
                    for method, function in _defined_in(module, vars(value)):
                        if inspect.isfunction(function) and not getattr(
                            function, "__isabstractmethod__", False
                        ):
                            yield f"{name}.{method}", _method_docstring(value, method)


def _defined_in(module: Any, names: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in list(names.items()):
        value = getattr(value, "__func__", value)  # of a class or static method
        is_public = not name.startswith("_") or name == "__call__"
        if is_public and getattr(value, "__module__", None) == module.__name__:
            yield name, value


def _method_docstring(of: type, method: str) -> str:
    docstrings = []
    for one in of.__mro__:
        if method in vars(one):
            docstrings.append(inspect.cleandoc(vars(one)[method].__doc__ or ""))
            if returns_section(docstrings[-1]):
                break
    return "\n\n".join(docstrings)


def returns_section(docstring: str) -> str:
    """Returns what a docstring says under `Returns:`, empty if nothing."""
    found = re.search(r"^Returns:\n((?:[ ].*\n?|\n)*)", docstring, re.MULTILINE)
    return found[1] if found else ""


def attributes_section(of: type) -> dict[str, str]:
    """Returns what a class's docstring says about each of its `Attributes:`."""
    found = re.search(r"^Attributes:\n((?:[ ].*\n?|\n)*)", inspect.getdoc(of) or "", re.MULTILINE)
    return dict(re.findall(r"^    (\w+): (.*(?:\n      .*)*)", found[1], re.MULTILINE)) if found else {}


def check_shapes(text: str, output: Any, sizes: dict[str, int | tuple[int, ...]]) -> None:
    """Asserts that the tensors in `output` have the shapes and dtypes in `text`, in order.

    Scalars are passed over. A shape that is the only one, or is followed by "each", may stand for several tensors.
    Floating-point tensors are float32 unless the text names another dtype.

    Args:
        text: Holds at least one shape.
        output: A tensor, or a tuple, list, dict or dataclass of them; other things are passed over.
        sizes: By letter; that of "..." is a tuple.
    """
    promised = list(SHAPE.finditer(" ".join(text.split())))
    assert promised, f"there is no shape in: {text}"
    tensors = [tensor for tensor in _tensors(output) if tensor.dim()]
    several = [shape for shape in promised if shape["each"] or len(promised) == 1]
    if len(tensors) > len(promised) and len(several) == 1:
        i = promised.index(several[0])
        promised[i:i] = several * (len(tensors) - len(promised))
    found = [(tuple(tensor.shape), tensor.dtype) for tensor in tensors]
    expected = [
        (
            _evaluate(shape["sizes"], sizes),
            getattr(torch, shape["before"] or shape["after"] or "float32"),
        )
        for shape in promised
    ]
    assert found == expected, f"returned {found}, promised {expected}"


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif dataclasses.is_dataclass(value):
        yield from _tensors(list(vars(value).values()))
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _tensors(one)


def _evaluate(shape: str, sizes: dict[str, int | tuple[int, ...]]) -> tuple[int, ...]:
    """Computes a shape such as "B, V * P [+ 1], D"; what is in brackets counts."""
    result: list[int] = []
    for term in filter(None, shape.split(", ")):
        size = (
            sizes["..."]
            if term == "..."
            else eval(re.sub(r"[\[\],]", "", term).replace("/", "//"), {}, sizes)
        )
        result += size if isinstance(size, tuple) else [size]
    return tuple(result)
