"""Reads YAML files that people write by hand, within limits: a few lines of YAML can stand for billions of values."""

from pathlib import Path
from typing import Any

import yaml

from lerobot_lara.files.reading import read_text, shown

# libyaml is ten times faster than Python, but it is not part of every build.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MAX_BYTES = 16 * 2**20
_MAX_DEPTH = 32  # levels; a mixture file has five
_MAX_VALUES = 2_000_000  # with aliases written out


def read_yaml(path: Path) -> Any:
    """Reads a YAML file of plain values; None if it is empty.

    Args:
        path: The file.

    Raises:
        ValueError: It is missing, is not YAML in UTF-8, has a key twice, is larger than 16 MB, is nested more than 32
            levels deep, or holds more than two million values once its aliases are written out.
    """
    if path.is_symlink() and not path.exists():
        raise ValueError(f"{path} is a link that leads nowhere, or in a circle. Correct the link.")
    if not path.is_file():
        raise ValueError(f"{path} does not exist. Check the path; the working directory is {Path.cwd()}.")
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise ValueError(
            f"{path} has {size} bytes; it must have at most {_MAX_BYTES}. Make sure that it is the right file."
        )
    text = read_text(path, remedy="Make sure that it is the right file, and save it as UTF-8.")
    try:
        _check_events(path, text)
        return yaml.load(text, Loader=_LOADER)  # noqa: S506  it is one of the safe loaders
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        # A date that does not exist, a number of thousands of digits, a list as a key.
        if str(error).startswith(str(path)):
            raise
        raise ValueError(
            f"{path} holds a value that cannot be read: {shown(error, str)}. Correct it."
        ) from error


def _check_events(path: Path, text: str) -> None:
    """Checks depth, size and keys without building anything; aliases count as what they stand for."""
    sizes: dict[str, int | None] = {}  # of anchors; None while they are open
    stack: list[_Node] = []
    total = 0
    for event in yaml.parse(text, Loader=_LOADER):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            size = sizes.get(event.anchor, 0)  # an unknown one is refused when the file is loaded
            if size is None:
                raise ValueError(
                    f"{path}, line {line}: *{event.anchor} stands for itself. Write its value out."
                )
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
            if stack and stack[-1].is_repeated(event.value):
                raise ValueError(
                    f"{path}, line {line}: `{shown(event.value, str)}` is there twice. Remove one."
                )
            if event.anchor:
                sizes[event.anchor] = size
        elif isinstance(event, yaml.CollectionStartEvent):
            if len(stack) == _MAX_DEPTH:
                raise ValueError(
                    f"{path}, line {line}: it is nested more than {_MAX_DEPTH} levels deep. Correct it."
                )
            stack.append(_Node(event.anchor, isinstance(event, yaml.MappingStartEvent)))
            if event.anchor:
                sizes[event.anchor] = None
            continue
        elif isinstance(event, yaml.CollectionEndEvent):
            node = stack.pop()
            size = node.size
            if node.anchor:
                sizes[node.anchor] = size
        else:
            continue
        if stack:
            stack[-1].add(size)
            total = stack[-1].size
        if total > _MAX_VALUES:
            raise ValueError(
                f"{path}, line {line}: it holds more than {_MAX_VALUES} values, with its aliases written out. Make "
                "sure that it is the right file."
            )


class _Node:
    """A list or mapping that is being read."""

    def __init__(self, anchor: str | None, is_mapping: bool) -> None:
        self.anchor = anchor
        self.size = 1
        self._is_mapping = is_mapping
        self._children = 0
        self._keys: set[str] = set()

    def add(self, size: int) -> None:
        """Counts a child."""
        self.size += size
        self._children += 1

    def is_repeated(self, scalar: str) -> bool:
        """Whether a scalar is the key of a mapping that has it already."""
        if not self._is_mapping or self._children % 2:
            return False
        repeated = scalar in self._keys and scalar != "<<"
        self._keys.add(scalar)
        return repeated
