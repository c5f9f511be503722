"""Reads the JSON-lines files of the formats v2.0 and v2.1."""

from pathlib import Path
from typing import Any

from lerobot_lara.data.dataset_rules import OBJECT
from lerobot_lara.files.reading import REMEDY, parse_json, read_text, wrong_field
from lerobot_lara.files.rules import Rule, check, whole_number

_TEXTS = Rule(
    "a list of texts, if it is there",
    lambda value: value is None or (isinstance(value, list) and all(isinstance(text, str) for text in value)),
)
_EPISODE = {"length": whole_number(1), "tasks": _TEXTS}
_TASK = {"task": Rule("text", lambda value: isinstance(value, str))}


def read_json_lines(path: Path, rules: str) -> list[dict[str, Any]]:
    """Reads a JSON-lines file whose entries are numbered from 0, in any order, and returns them in order.

    Args:
        path: The file.
        rules: What its lines describe: "episode", "task" or "statistics".

    Raises:
        ValueError: It is missing or damaged, or a number is missing or occurs twice.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing. Download the dataset again.")
    number = "task_index" if rules == "task" else "episode_index"
    fields = {"episode": _EPISODE, "task": _TASK, "statistics": {"stats": OBJECT}}[rules]
    lines: dict[int, dict[str, Any]] = {}
    # Not splitlines(), which also splits at characters that JSON strings may hold.
    for position, text in enumerate(read_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        line = parse_json(text, path, f" line {position}")
        if not isinstance(line, dict):
            raise wrong_field(path, f"line {position}", line, "an object")
        for field, rule in {number: whole_number(0), **fields}.items():
            check(path, f"{field} of line {position}", line.get(field), rule)
        if rules == "episode":
            reserved = [
                key for key in line if "/" in key or key in ("dataset_from_index", "dataset_to_index")
            ]
            if reserved:  # these say where format v3.0 keeps an episode
                raise wrong_field(path, f"line {position}", reserved[0], "free of the columns of format v3.0")
        if line[number] in lines:
            raise _misnumbered(path, number, line[number])
        lines[line[number]] = line
    for expected in range(len(lines)):
        if expected not in lines:
            raise _misnumbered(path, number, expected)
    return [lines[index] for index in range(len(lines))]


def _misnumbered(path: Path, number: str, index: int) -> ValueError:
    """Returns the error for a number that not exactly one line has."""
    return ValueError(
        f"{path}: {number} {index} is missing or occurs twice; there must be one line for each. {REMEDY}"
    )
