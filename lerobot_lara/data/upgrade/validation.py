"""Checks of paths in datasets that others have made, before anything is read or written because of them."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from string import Formatter
from typing import Any

_PLACEHOLDERS = ("episode_chunk", "chunk_index", "episode_index", "video_key")
_NUMBER_FORMAT = r"0?\d{0,2}d?"  # at most 99 digits; a width of a billion would fill the memory
_MAX_NAME_BYTES = 200  # file systems take 255, and the upgrade adds to names
_MAX_SHOWN = 120  # characters of a value in a message
_REMEDY = "Correct it, or download the dataset again."


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
