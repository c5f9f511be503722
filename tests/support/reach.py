"""Finds which of some functions a test may call: directly, through its fixtures or through helpers of its module."""

import inspect
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType

import pytest


def reached(item: pytest.Item, names: Iterable[str]) -> set[str]:
    """Returns those `names` that occur in the code of a test, of its fixtures or of their helpers.

    Helpers are functions of the same module or of `support`. Code is read, not run: a name counts even where a test
    never gets to it.
    """
    if not isinstance(item, pytest.Function):
        return set()
    wanted, found, seen = set(names), set(), set()
    left: list[FunctionType] = [item.function]
    left += [
        definition.func
        for definitions in item._fixtureinfo.name2fixturedefs.values()
        for definition in definitions
    ]
    while left:
        function = inspect.unwrap(left.pop())
        function = getattr(function, "__func__", function)  # of a class's methods
        if not isinstance(function, FunctionType) or function.__code__ in seen:
            continue
        seen.add(function.__code__)
        for name in _names(function.__code__):
            if name in wanted:
                found.add(name)
            elif _is_beside(helper := function.__globals__.get(name), function):
                left.append(helper)
    return found


def _is_beside(helper: object, function: FunctionType) -> bool:
    module = getattr(helper, "__module__", None) or ""
    return module == function.__module__ or module.startswith("support.")


def _names(code: CodeType) -> Iterator[str]:
    """The global names and attributes in a piece of code and in the functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
