"""Checks of metadata and paths in datasets that others have made, before anything is built because of them."""

import json
import math
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

from lerobot.utils.constants import DEFAULT_FEATURES

_PLACEHOLDERS = ("episode_chunk", "chunk_index", "episode_index", "video_key")
_NUMBER_FORMAT = r"0?\d{0,2}d?"  # at most 99 digits; a width of a billion would fill the memory
_MAX_NAME_BYTES = 200  # file systems take 255, and the upgrade adds to names
_MAX_SHOWN = 120  # characters of a value in a message
_REMEDY = "Correct it, or download the dataset again."
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_MAX_DEPTH = 32  # levels of nested JSON; a few are usual
_MAX_COUNT = 10**12
_MAX_FPS = 10_000
_MAX_NUMBERS = 10**9  # in one frame of one feature; an 8K image has 10**8


@dataclass(frozen=True)
class _Rule:
    """What a field of a metadata file must be.

    Args:
        expected: In words that follow "it must be".
        accepts: Whether a value is that.
    """

    expected: str
    accepts: Callable[[Any], bool]


def _whole_number(minimum: int) -> _Rule:
    """Whole numbers from `minimum` to 10**12."""
    return _Rule(
        f"a whole number from {minimum} to {_MAX_COUNT}",
        lambda value: type(value) is int and minimum <= value <= _MAX_COUNT,
    )


def _is_shape(value: Any) -> bool:
    """Whether a value is the shape of an array of a plausible size."""
    if not isinstance(value, list) or not 1 <= len(value) <= 5:
        return False
    sizes = all(type(size) is int and 1 <= size <= _MAX_NUMBERS for size in value)
    return sizes and math.prod(value) <= _MAX_NUMBERS


_OBJECT = _Rule("an object", lambda value: isinstance(value, dict))
_OBJECT_OR_NULL = _Rule("an object or null", lambda value: value is None or isinstance(value, dict))
_TEXT_OR_NULL = _Rule("text or null", lambda value: value is None or isinstance(value, str))
_NUMERIC = ("bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)))
_DTYPES = (*_NUMERIC, "float16", "float32", "float64", "string", "image", "video")

_INFO = {
    "fps": _Rule(
        f"a number above 0 and at most {_MAX_FPS}",
        lambda value: type(value) in (int, float) and 0 < value <= _MAX_FPS,
    ),
    "chunks_size": _whole_number(1),
    "features": _OBJECT,
    "robot_type": _TEXT_OR_NULL,
    "splits": _OBJECT_OR_NULL,
    "tools": _Rule("a list or null", lambda value: value is None or isinstance(value, list)),
    **{f"total_{what}": _whole_number(0) for what in ("episodes", "frames", "tasks", "videos", "chunks")},
}
_FEATURE = {
    "dtype": _Rule(f"one of {', '.join(_DTYPES)}", lambda value: isinstance(value, str) and value in _DTYPES),
    "shape": _Rule("a list of 1 to 5 whole numbers above 0, with a product of at most 10**9", _is_shape),
}
_TEXTS = _Rule(
    "a list of texts, if it is there",
    lambda value: value is None or (isinstance(value, list) and all(isinstance(text, str) for text in value)),
)
_EPISODE = {"length": _whole_number(1), "tasks": _TEXTS}
_TASK = {"task": _Rule("text", lambda value: isinstance(value, str))}


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        ValueError: It is not JSON, or nested too deeply.
    """
    return parse_json(_read_text(path), path)


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
    fields = {"episode": _EPISODE, "task": _TASK, "statistics": {"stats": _OBJECT}}[rules]
    lines: dict[int, dict[str, Any]] = {}
    # Not splitlines(), which also splits at characters that JSON strings may hold.
    for position, text in enumerate(_read_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        line = parse_json(text, path, f" line {position}")
        if not isinstance(line, dict):
            raise wrong_field(path, f"line {position}", line, "an object")
        for field, rule in {number: _whole_number(0), **fields}.items():
            _check(path, f"{field} of line {position}", line.get(field), rule)
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
        f"{path}: {number} {index} is missing or occurs twice; there must be one line for each. {_REMEDY}"
    )


def parse_json(text: str, path: Path, where: str = "") -> Any:
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
            f"{path} is damaged:{where or ' it'} is not a JSON object ({error}). {_REMEDY}"
        ) from error
    else:
        deep = _is_deeper(value, _MAX_DEPTH)
    if deep:
        raise ValueError(
            f"{path} is damaged:{where or ' it'} is nested more than {_MAX_DEPTH} levels deep. {_REMEDY}"
        )
    return value


def _read_text(path: Path) -> str:
    """Reads a text file, without the byte order mark that some editors write."""
    check_content([path])
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: it is not text in UTF-8 ({error}). {_REMEDY}") from error


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


def check_info(info: dict[str, Any], path: Path) -> None:
    """Checks the content of a v2.0 or v2.1 `meta/info.json`: types, sizes, keys and templates of paths.

    Args:
        info: The content, with `fps`, `features` and `chunks_size`.
        path: The file, for messages.

    Raises:
        ValueError: A field is wrong; names it, what was found and what it must be.
    """
    for field, rule in _INFO.items():
        if field in info:
            _check(path, field, info[field], rule)
    features = info["features"]
    for key, feature in features.items():
        _check(path, f"features.{key}", feature, _OBJECT)
        for field, rule in _FEATURE.items():
            _check(path, f"features.{key}.{field}", feature.get(field), rule)
        for field in ("info", "video_info"):
            _check(path, f"features.{key}.{field}", feature.get(field), _OBJECT_OR_NULL)
    for key in DEFAULT_FEATURES:
        if features.get(key, {}).get("dtype") not in (*_NUMERIC, "float16", "float32", "float64"):
            raise wrong_field(
                path, f"features.{key}", features.get(key), "a numeric feature, which LeRobot needs"
            )
    videos = [key for key, feature in features.items() if feature["dtype"] == "video"]
    check_feature_keys(path, features, videos)
    check_template(path, "data_path", info.get("data_path"), ("episode_index",))
    if videos:
        required = ("episode_index", "video_key") if len(videos) > 1 else ("episode_index",)
        check_template(path, "video_path", info.get("video_path"), required)


def _check(path: Path, field: str, value: Any, rule: _Rule) -> None:
    """Raises the error of a field that breaks its rule."""
    if not rule.accepts(value):
        raise wrong_field(path, field, value, rule.expected)


def wrong_field(path: Path, field: str, found: Any, expected: str) -> ValueError:
    """Returns the error for a value of a metadata file, in the words that all of them share.

    Args:
        path: The file.
        field: Name of the value, as it is written there.
        found: The value, which is shortened.
        expected: What the value must be.
    """
    return ValueError(f"{path}: `{shown(field, str)}` is {shown(found)}; it must be {expected}. {_REMEDY}")


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


def check_feature_keys(path: Path, keys: Iterable[str], cameras: Iterable[str]) -> None:
    """Checks that the keys of features can be names of columns and, for cameras, of folders.

    Args:
        path: The file that holds them, for messages.
        keys: Keys of all features.
        cameras: Those of them whose images are in videos.

    Raises:
        ValueError: A key could lead out of a folder, or cannot be a name.
    """
    for key in keys:
        if not _is_name(key):
            raise wrong_field(
                path,
                "features",
                key,
                "described by keys that are plain names, without slashes, backslashes, drives or control characters",
            )
    for key in cameras:
        if any(letter in key for letter in "*?[]'"):  # LeRobot's converter searches for files by this name
            raise wrong_field(path, "features", key, "described by camera keys without any of * ? [ ] '")


def check_template(path: Path, field: str, template: Any, required: tuple[str, ...]) -> None:
    """Checks a template of the paths of episodes' files.

    Args:
        path: The file that holds it, for messages.
        field: Its name there.
        template: The template.
        required: Placeholders without which several episodes or cameras would have the same file.

    Raises:
        ValueError: It is no template, or could lead out of the dataset.
    """
    problem = wrong_field(
        path,
        field,
        template,
        "a template of {episode_chunk}, {video_key} and {episode_index} that gives a path inside the dataset, with "
        + " and ".join(f"{{{name}}}" for name in required),
    )
    if not isinstance(template, str):
        raise problem
    try:
        parts = [part for part in Formatter().parse(template) if part[1] is not None]
    except ValueError:
        raise problem from None
    for _, name, specification, conversion in parts:
        number_format = "" if name == "video_key" else _NUMBER_FORMAT
        if name not in _PLACEHOLDERS or conversion or not re.fullmatch(number_format, specification or ""):
            raise problem
    if not set(required) <= {name for _, name, _, _ in parts}:
        raise problem
    filled = template.format(**dict.fromkeys(_PLACEHOLDERS[:3], 0), video_key="camera")
    folders = [part for part in filled.split("/") if part not in ("", ".")]
    if filled.startswith("/") or len(filled) > 1000 or not folders or not all(map(_is_name, folders)):
        raise problem


def _is_name(name: str) -> bool:
    """Whether a string is the name of one file or folder, on every system, that leads nowhere else."""
    try:
        short = len(name.encode()) <= _MAX_NAME_BYTES
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    plain = not any(letter in "/\\" or ord(letter) < 32 or ord(letter) == 127 for letter in name)
    return short and plain and bool(name.strip(". ")) and not re.match(r"[A-Za-z]:", name)


def check_source_file(path: Path, root: Path) -> None:
    """Checks that links do not lead out of a dataset, whose author could otherwise name any file of this machine.

    Args:
        path: A file of the dataset.
        root: Folder of the dataset. In the Hub's cache, which consists of links, the files of the same repository
            belong to it.

    Raises:
        ValueError: The file lies elsewhere.
    """
    target = Path(os.path.realpath(path))
    folders = [Path(os.path.realpath(root))]
    if root.parent.name == "snapshots" and root.parents[1].name.startswith("datasets--"):
        folders.append(Path(os.path.realpath(root.parents[1])) / "blobs")
    if not any(target.is_relative_to(folder) for folder in folders):
        raise ValueError(
            f"{path} leads to {target}, which is outside of the dataset {root}; links must stay inside. If you trust "
            "that file, replace the link with a copy of it; otherwise remove the link."
        )


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


def inside(path: Path, folder: Path) -> Path:
    """Returns a path that is about to be written, after checking that it lies in the folder of the output.

    Args:
        path: What is written.
        folder: Folder of the output.

    Raises:
        ValueError: It lies elsewhere, because of its name or of a link.
    """
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise ValueError(
            f"{path} leads to {os.path.realpath(path)}, which is outside of the output {folder}; nothing is written "
            "there. Remove links from that folder, or choose another one."
        )
    return path
