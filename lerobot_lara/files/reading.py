"""Reads files that others have made, and says what is wrong with them: the path first, then what to do."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

REMEDY = "Correct it, or download the dataset again."
_MAX_SHOWN = 120  # characters of a value in a message
_MAX_DEPTH = 32  # levels of nested JSON; a few are usual
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def read_json(path: Path, *, remedy: str = REMEDY) -> Any:
    """Reads a JSON file.

    Args:
        path: The file.
        remedy: What to do if it is damaged.

    Raises:
        ValueError: It is not JSON, or nested too deeply.
    """
    return parse_json(read_text(path, remedy=remedy), path, remedy=remedy)


def read_json_object(path: Path, *, remedy: str = REMEDY) -> dict[str, Any]:
    """Reads a JSON file that holds an object; see `read_json`.

    Raises:
        ValueError: It holds anything else.
    """
    content = read_json(path, remedy=remedy)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is {shown(content)}; it must be a JSON object. {remedy}")
    return content


def parse_json(text: str, path: Path, where: str = "", *, remedy: str = REMEDY) -> Any:
    """Parses JSON of a file, or of the line of it that `where` names.

    Raises:
        ValueError: It is not JSON, or nested too deeply.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        value = None
        deep = True
    except ValueError as error:  # JSONDecodeError, or a number of thousands of digits
        raise ValueError(
            f"{path} is damaged:{where or ' it'} is not a JSON object ({error}). {remedy}"
        ) from error
    else:
        deep = _is_deeper(value, _MAX_DEPTH)
    if deep:
        raise ValueError(
            f"{path} is damaged:{where or ' it'} is nested more than {_MAX_DEPTH} levels deep. {remedy}"
        )
    return value


def read_text(path: Path, *, remedy: str = REMEDY) -> str:
    """Reads a text file, without the byte order mark that some editors write.

    Args:
        path: The file.
        remedy: What to do if it is no text.

    Raises:
        ValueError: It is a Git LFS pointer, or not text in UTF-8.
    """
    check_content([path])
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: it is not text in UTF-8 ({error}). {remedy}") from error


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested in more than `levels` levels; does not recurse itself."""
    level = [value]
    for _ in range(levels + 1):
        parents = [parent for parent in level if isinstance(parent, dict | list)]
        level = [
            child for parent in parents for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not parents:
            return False
    return True


def wrong_field(path: Path, field: str, found: Any, expected: str) -> ValueError:
    """Returns the error for a value of a metadata file, in the words that all of them share.

    Args:
        path: The file.
        field: Name of the value, as it is written there.
        found: The value, which is shortened.
        expected: What the value must be.
    """
    return ValueError(f"{path}: `{shown(field, str)}` is {shown(found)}; it must be {expected}. {REMEDY}")


def shown(value: Any, show: Any = repr) -> str:
    """Returns a value as a message can show it: on one line, and shortened."""
    try:
        text = show(value)
    except (RecursionError, ValueError):  # nested too deeply, or a number of thousands of digits
        text = f"a {type(value).__name__} that is too large to show"
    text = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def check_content(paths: Iterable[Path], videos: Iterable[Path] = ()) -> None:
    """Checks by their first bytes that files are what they should be.

    Args:
        paths: Files of any kind, which must not be Git LFS pointers, as a clone without git-lfs leaves them.
        videos: Files that must be videos and not, for example, playlists, with which ffmpeg would open other files.

    Raises:
        ValueError: Some are not; names the first and counts the others.
    """
    videos = list(videos)
    pointers, others = [], []
    for path in (*paths, *videos):
        with path.open("rb") as file:
            if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                pointers.append(path)
    if pointers:
        raise ValueError(
            f"{_listed(pointers)}: Git LFS pointers instead of the files themselves. Install git-lfs and run `git lfs "
            "pull` in the folder of the dataset, or download the dataset again."
        )
    for path in videos:
        with path.open("rb") as file:
            start = file.read(12)
        mp4 = start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
        if not mp4 and start[:4] != b"\x1aE\xdf\xa3" and not (start[:4] == b"RIFF" and start[8:] == b"AVI "):
            others.append(path)
    if others:
        raise ValueError(
            f"{_listed(others)}: no video in MP4, Matroska, WebM or AVI. Download the dataset again."
        )


def _listed(paths: list[Path]) -> str:
    """Names the first path, and counts the others."""
    return f"{paths[0]} and {len(paths) - 1} more" if len(paths) > 1 else str(paths[0])
