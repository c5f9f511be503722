"""Reading `--env.task`: names separated by commas."""

import difflib
from collections.abc import Iterable


def split_task_names(task: str, known: Iterable[str], *, kind: str, prefix: str = "") -> list[str]:
    """Splits a comma-separated list of tasks and checks each of them.

    Args:
        task: Names separated by commas.
        known: All names that there are, at least one.
        kind: What the names stand for in messages, such as "Meta-World task or group".
        prefix: What may stand before a name, and is dropped.

    Returns:
        The names in the given order, at least one.

    Raises:
        ValueError: No task is given, or one is given twice or is unknown, in which case close matches are listed.
    """
    known = list(known)
    names = [name.strip().removeprefix(prefix) for name in (task or "").split(",") if name.strip()]
    if not names:
        raise ValueError(f"`task` is empty; it must name a {kind}, such as {known[0]}.")
    for name in names:
        if name not in known:
            matches = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            hint = f"Did you mean {' or '.join(matches)}?" if matches else f"They are {', '.join(known)}."
            raise ValueError(f"`task` is {name!r}; it must be a known {kind}. {hint}")
        if names.count(name) > 1:
            raise ValueError(f"`task` is {task!r}, which names {name!r} more than once. Name each task once.")
    return names
