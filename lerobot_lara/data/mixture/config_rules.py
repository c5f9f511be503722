"""What the fields of a mixture file must be."""

from collections.abc import Callable, Sequence
from typing import Any

from lerobot_lara.files.reading import shown
from lerobot_lara.files.rules import Rule

_MAX_SHOWN = 20  # problems in one message
_MAX_WEIGHT = 10**9
_MIN_WEIGHT = 1e-9
_MAX_SIDE = 8192
_MAX_GAP_S = 86_400
_MAX_NUMBER = 10**9


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_text(value: Any) -> bool:
    return (
        isinstance(value, str)
        and bool(value.strip())
        and not any(ord(c) < 32 or ord(c) == 127 for c in value)
    )


def _is_instruction(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _list_of(accepts: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(accepts, value))


def _is_index(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX_NUMBER


def _or_null(rule: Rule) -> Rule:
    """A rule for a field that may be left out."""
    return Rule(rule.expected, lambda value: value is None or rule.accepts(value))


def _one_of(*choices: str) -> Rule:
    return Rule(f"one of {choices}", lambda value: isinstance(value, str) and value in choices)


_TEXT = Rule("text on one line (in quotes, if it looks like a number)", _is_text)
_FLAG = Rule("true or false", lambda value: isinstance(value, bool))
_SECONDS = Rule(
    f"a number of seconds above 0 and at most {_MAX_GAP_S}",
    lambda value: _is_number(value) and 0 < value <= _MAX_GAP_S,
)
_INDICES = Rule("a list of whole numbers, from 0", lambda value: _list_of(_is_index, value))
# An empty one is refused with the columns of the dataset.
_DIMENSIONS = Rule(_INDICES.expected, lambda value: value == [] or _INDICES.accepts(value))

VECTOR_RULES = {"key": _or_null(_TEXT), "dims": _or_null(_DIMENSIONS), "invert": _or_null(_DIMENSIONS)}
ENTRY_RULES = {
    "name": _TEXT,
    "repo_id": _TEXT,
    "root": _or_null(_TEXT),
    "revision": _or_null(_TEXT),
    "weight": Rule(
        f"0, or a number from {_MIN_WEIGHT:g} to {_MAX_WEIGHT:.0e} (written as 0.001 or 1.0e-3)",
        lambda value: _is_number(value) and (value == 0 or _MIN_WEIGHT <= value <= _MAX_WEIGHT),
    ),
    "episodes": _or_null(
        Rule("a list of episode numbers, from 0; leave it out to use all episodes", _INDICES.accepts)
    ),
    "cameras": _or_null(
        Rule(
            "a mapping of at least one camera of the dataset to one of the policy; leave it out to take the cameras of "
            "the policy's names",
            lambda value: isinstance(value, dict) and _list_of(_is_text, [*value, *value.values()]),
        )
    ),
    "embodiment": _or_null(_TEXT),
    "frame_gap_s": _or_null(_SECONDS),
    "language_key": _TEXT,
    "instruction": _or_null(Rule("text", _is_instruction)),
    "action_free": _FLAG,
    "labels": _or_null(_TEXT),
}
MIXTURE_RULES = {
    "weights": _one_of("share", "per_frame"),
    "reference": _or_null(_TEXT),
    "cameras": _or_null(
        Rule(
            "a list of at least one camera of the policy, each once",
            lambda value: _list_of(_is_text, value) and len(set(value)) == len(value),
        )
    ),
    "image_size": _or_null(
        Rule(
            f"[height, width] in pixels, from 1 to {_MAX_SIDE}",
            lambda value: (
                _list_of(_is_index, value) and len(value) == 2 and 1 <= min(value) <= max(value) <= _MAX_SIDE
            ),
        )
    ),
    "frame_gap_s": _or_null(_SECONDS),
    "action_free_share": _or_null(
        Rule("a number above 0 and below 1", lambda value: _is_number(value) and 0 < value < 1)
    ),
    "statistics": _one_of("dataset", "embodiment"),
    "on_broken_video": _one_of("error", "skip"),
}


def check_fields(config: object, rules: dict[str, Rule], where: str = "") -> None:
    """Checks the fields of a configuration.

    Args:
        config: Has the fields as attributes.
        rules: Field -> what it must be.
        where: Follows the field's name in messages.

    Raises:
        ValueError: Fields break their rules; names all of them.
    """
    raise_together(
        [
            f"`{field}`{where} is {shown(getattr(config, field))}; it must be {rule.expected}."
            for field, rule in rules.items()
            if not rule.accepts(getattr(config, field))
        ]
    )


def raise_together(problems: Sequence[str]) -> None:
    """Raises one error for all problems, each on a line of its own, if there are any.

    Args:
        problems: Sentences that say what is wrong and what to do.

    Raises:
        ValueError: There are problems.
    """
    if problems:
        more = len(problems) - _MAX_SHOWN
        rest = [f"There are {more} more problems of this kind."] if more > 0 else []
        raise ValueError("\n".join([*problems[:_MAX_SHOWN], *rest]))
