"""Checks of metadata and paths in datasets that others have made, before anything is built because of them."""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from string import Formatter
from typing import Any

from lerobot.datasets.utils import DEFAULT_DATA_PATH, DEFAULT_VIDEO_PATH
from lerobot.utils.constants import DEFAULT_FEATURES

from lerobot_lara.files.reading import wrong_field
from lerobot_lara.files.rules import Rule, check, whole_number

# Some tools write the newer `chunk_index` into v2.1 datasets.
LEGACY_PLACEHOLDERS = ("episode_chunk", "chunk_index", "episode_index", "video_key")
PLACEHOLDERS = ("chunk_index", "file_index", "video_key")
_NUMBER_FORMAT = r"0?\d{0,2}d?"  # at most 99 digits; a width of a billion would fill the memory
_MAX_NAME_BYTES = 200  # file systems take 255, and the upgrade adds to names
_MAX_FPS = 10_000
_MAX_NUMBERS = 10**9  # in one frame of one feature; an 8K image has 10**8


def _is_shape(value: Any) -> bool:
    """Whether a value is the shape of an array of a plausible size."""
    if not isinstance(value, list) or not 1 <= len(value) <= 5:
        return False
    sizes = all(type(size) is int and 1 <= size <= _MAX_NUMBERS for size in value)
    return sizes and math.prod(value) <= _MAX_NUMBERS


OBJECT = Rule("an object", lambda value: isinstance(value, dict))
OBJECT_OR_NULL = Rule("an object or null", lambda value: value is None or isinstance(value, dict))
_TEXT_OR_NULL = Rule("text or null", lambda value: value is None or isinstance(value, str))
_SIZE_IN_MB = Rule(
    "a number of megabytes above 0 and at most 10**6",
    lambda value: type(value) in (int, float) and 0 < value <= 10**6,
)
_NUMERIC = ("bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)))
_DTYPES = (*_NUMERIC, "float16", "float32", "float64", "string", "language", "image", "video")

_CAMERA_NAMES = Rule(
    '["height", "width", "channels"]',
    lambda value: (
        isinstance(value, list) and len(value) == 3 and all(isinstance(name, str) for name in value)
    ),
)

_INFO = {
    "fps": Rule(
        f"a number above 0 and at most {_MAX_FPS}",
        lambda value: type(value) in (int, float) and 0 < value <= _MAX_FPS,
    ),
    "chunks_size": whole_number(1),
    "features": OBJECT,
    "data_files_size_in_mb": _SIZE_IN_MB,
    "video_files_size_in_mb": _SIZE_IN_MB,
    "robot_type": _TEXT_OR_NULL,
    "splits": OBJECT_OR_NULL,
    "tools": Rule("a list or null", lambda value: value is None or isinstance(value, list)),
    **{f"total_{what}": whole_number(0) for what in ("episodes", "frames", "tasks", "videos", "chunks")},
}
_FEATURE = {
    "dtype": Rule(f"one of {', '.join(_DTYPES)}", lambda value: isinstance(value, str) and value in _DTYPES),
    "shape": Rule("a list of 1 to 5 whole numbers above 0, with a product of at most 10**9", _is_shape),
}


def check_legacy_info(info: dict[str, Any], path: Path) -> None:
    """Checks the content of a v2.0 or v2.1 `meta/info.json`: types, sizes, keys and templates of paths.

    Args:
        info: The content, with `fps`, `features` and `chunks_size`.
        path: The file, for messages.

    Raises:
        ValueError: A field is wrong; names it, what was found and what it must be.
    """
    videos = _check_fields(info, path)
    check_template(path, "data_path", info.get("data_path"), ("episode_index",), LEGACY_PLACEHOLDERS)
    if videos:
        required = ("episode_index", "video_key") if len(videos) > 1 else ("episode_index",)
        check_template(path, "video_path", info.get("video_path"), required, LEGACY_PLACEHOLDERS)


def check_info(info: dict[str, Any], path: Path) -> None:
    """Checks the content of a v3 `meta/info.json`: types, sizes, keys and templates of paths.

    Args:
        info: The content.
        path: The file, for messages.

    Raises:
        ValueError: A field is missing or wrong; names it, what was found and what it must be.
    """
    for field in ("fps", "features"):
        check(path, field, info.get(field), _INFO[field])
    videos = _check_fields(info, path)
    for key, feature in info["features"].items():
        if feature["dtype"] in ("image", "video"):
            check(path, f"features.{key}.names", feature.get("names"), _CAMERA_NAMES)
    check_template(path, "data_path", info.get("data_path", DEFAULT_DATA_PATH), ("file_index",), PLACEHOLDERS)
    if videos:
        required = ("file_index", "video_key") if len(videos) > 1 else ("file_index",)
        template = info.get("video_path", DEFAULT_VIDEO_PATH)
        check_template(path, "video_path", template, required, PLACEHOLDERS)


def _check_fields(info: dict[str, Any], path: Path) -> list[str]:
    """Checks what all formats have in common, and returns the cameras whose images are in videos."""
    for field, rule in _INFO.items():
        if field in info:
            check(path, field, info[field], rule)
    features = info["features"]
    for key, feature in features.items():
        check(path, f"features.{key}", feature, OBJECT)
        for field, rule in _FEATURE.items():
            check(path, f"features.{key}.{field}", feature.get(field), rule)
        for field in ("info", "video_info"):
            check(path, f"features.{key}.{field}", feature.get(field), OBJECT_OR_NULL)
        if feature["dtype"] in ("image", "video") and len(feature["shape"]) != 3:
            raise wrong_field(path, f"features.{key}.shape", feature["shape"], "[height, width, channels]")
    for key in DEFAULT_FEATURES:
        if features.get(key, {}).get("dtype") not in (*_NUMERIC, "float16", "float32", "float64"):
            raise wrong_field(
                path, f"features.{key}", features.get(key), "a numeric feature, which LeRobot needs"
            )
    videos = [key for key, feature in features.items() if feature["dtype"] == "video"]
    check_feature_keys(path, features, videos)
    return videos


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


def check_template(
    path: Path, field: str, template: Any, required: tuple[str, ...], known: tuple[str, ...]
) -> None:
    """Checks a template of the paths of episodes' files.

    Args:
        path: The file that holds it, for messages.
        field: Its name there.
        template: The template.
        required: Placeholders without which several episodes or cameras would have the same file.
        known: The placeholders of the format.

    Raises:
        ValueError: It is no template, or could lead out of the dataset.
    """
    problem = wrong_field(
        path,
        field,
        template,
        f"a template of {' '.join(f'{{{name}}}' for name in known)} that gives a path inside the dataset, with "
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
        if name not in known or conversion or not re.fullmatch(number_format, specification or ""):
            raise problem
    if not set(required) <= {name for _, name, _, _ in parts}:
        raise problem
    filled = template.format(**dict.fromkeys(known, 0) | {"video_key": "camera"})
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
