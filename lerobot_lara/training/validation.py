"""One form for what is said of a configuration field with an impossible value."""

from typing import Any


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
        raise ValueError(
            f"`{name}` is {getattr(config, name)!r}; it must be {expected}. Pass --policy.{name}=..."
        )
