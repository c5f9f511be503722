"""One form for what is said of a configuration field with an impossible value."""

import math
import re
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

# Far beyond any network of this kind: a configuration that asks for more is damaged, and building it would never end.
LARGEST = (
    (re.compile(r"num_layers$|num_heads$"), 1_000),
    (re.compile(r"width$|latent_dim$|_rank$"), 65_536),
    (re.compile(r"image_size$|prediction_size$|chunk_size$|num_latent_tokens$|max_.*_dim$"), 16_384),
    (re.compile(r"codebook_size$|frame_gap$|max_length$|num_inference_steps$"), 1_000_000),
)
NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


def require_field(config: Any, name: str, holds: bool, expected: str) -> None:
    """Refuses the value of a field.

    Args:
        config: Has the field.
        name: Of the field.
        holds: Whether the value is allowed.
        expected: What is allowed, for the message: "`name` is <value>; it must be <expected>."

    Raises:
        ValueError: `holds` is False.
    """
    if not holds:
        raise ValueError(_refusal(name, getattr(config, name), expected))


def require_simple_values(config_class: Any, values: Mapping[str, Any]) -> None:
    """Refuses values of another type than a field's, numbers that are not finite, and absurd sizes.

    Args:
        config_class: A dataclass.
        values: Of its fields, by name; those of other types than numbers, texts, lists of them and None are not
            checked.

    Raises:
        ValueError: For the first such value.
    """
    hints = _hints(config_class)
    for name, value in values.items():
        hint = hints.get(name)
        if hint is None or not _is_simple(hint):
            continue
        if not _fits(value, hint):
            raise ValueError(_refusal(name, value, _describe(hint)))
        largest = next((most for pattern, most in LARGEST if pattern.search(name)), None)
        if isinstance(value, int) and largest is not None and value > largest:
            raise ValueError(_refusal(name, value, f"at most {largest}"))


def _refusal(name: str, value: Any, expected: str) -> str:
    return f"`{name}` is {value!r}; it must be {expected}. Pass --policy.{name}=..."


@cache
def _hints(config_class: Any) -> dict[str, Any]:
    return get_type_hints(config_class)


def _is_simple(hint: Any) -> bool:
    if get_origin(hint) in (Union, types.UnionType, list, tuple):
        return all(arg is Ellipsis or _is_simple(arg) for arg in get_args(hint))
    return hint in NAMES


def _fits(value: Any, hint: Any) -> bool:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is list or (origin is tuple and args[-1] is Ellipsis):
        return isinstance(value, (list, tuple)) and all(_fits(each, args[0]) for each in value)
    if origin is tuple:
        same = isinstance(value, (list, tuple)) and len(value) == len(args)
        return same and all(_fits(each, arg) for each, arg in zip(value, args, strict=True))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(arg) for arg in args)
    if origin is list or (origin is tuple and args[-1] is Ellipsis):
        return f"a list, each {_describe(args[0])}"
    if origin is tuple:
        return f"a list of {len(args)}: {', '.join(_describe(arg) for arg in args)}"
    return NAMES[hint]
