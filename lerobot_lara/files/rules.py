"""Rules for the fields of files that others have made."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lerobot_lara.files.reading import wrong_field

_MAX_COUNT = 10**12


@dataclass(frozen=True)
class Rule:
    """What a field of a metadata file must be.

    Args:
        expected: In words that follow "it must be".
        accepts: Whether a value is that.
    """

    expected: str
    accepts: Callable[[Any], bool]


def whole_number(minimum: int) -> Rule:
    """Whole numbers from `minimum` to 10**12."""
    return Rule(
        f"a whole number from {minimum} to {_MAX_COUNT}",
        lambda value: type(value) is int and minimum <= value <= _MAX_COUNT,
    )


def check(path: Path, field: str, value: Any, rule: Rule) -> None:
    """Checks one field.

    Raises:
        ValueError: It breaks its rule.
    """
    if not rule.accepts(value):
        raise wrong_field(path, field, value, rule.expected)
