"""Looks through a folder of video clips: the clips, their captions, and the frame rate and size that they share."""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from lerobot_lara.data.video.clip import VIDEO_SUFFIXES, VideoClip, check_constant_rate, probe_clip
from lerobot_lara.data.video.decode import UnreadableClipError
from lerobot_lara.data.video.options import is_unicode

_CAPTIONS = '{"clip.mp4": "text"} or [{"id": "clip", "label": "text"}]'


def find_clips(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Finds the clips in a folder and its subfolders, also linked ones; names that start with a dot are ignored.

    Returns:
        {path within the folder: path} of the clips, sorted, and the paths within the folder of all other files. Links
        to nowhere are among them.

    Raises:
        ValueError: There is no clip.
    """
    files = {path.relative_to(folder).as_posix(): path for path in _walk(folder)}
    clips = {name: files[name] for name in sorted(files) if files[name].suffix.lower() in VIDEO_SUFFIXES}
    others = sorted(files.keys() - clips.keys())
    if not clips:
        raise ValueError(
            f"{folder} contains no video clip, only {len(others)} other file(s). Clips are recognized by their "
            f"extensions: {', '.join(sorted(VIDEO_SUFFIXES))}."
        )
    return clips, others


def probe_clips(
    paths: Mapping[str, Path], *, num_workers: int = 0
) -> tuple[dict[str, VideoClip], dict[str, str]]:
    """Opens every clip.

    Args:
        paths: Name -> path of each clip.
        num_workers: Clips to open at once.

    Returns:
        {name: clip} of those that could be opened and {name: reason} of the others, in the order of `paths`.
    """
    clips, failures = {}, {}
    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        probed = tqdm(
            pool.map(_try_probe, paths.values()), desc="Opening clips", unit="clip", total=len(paths)
        )
        for name, clip in zip(paths, probed, strict=True):
            if isinstance(clip, VideoClip):
                clips[name] = clip
            else:
                failures[name] = clip
    return clips, failures


def load_captions(captions: str | Path | Mapping[str, str] | None) -> dict[str, str]:
    """Loads and checks captions.

    Args:
        captions: {clip: text}, or a JSON file with that content. The file may also hold a list of objects with `id` and
            `label`, as in Something-Something v2; their other keys are not used. None is no captions.

    Returns:
        {clip: text}.

    Raises:
        ValueError: The file is missing or is not JSON, or a clip has no text or two different ones.
    """
    if captions is None:
        return {}
    if isinstance(captions, Mapping):
        source, content = "`captions`", dict(captions)
    else:
        source = str(captions)
        try:
            # Windows writes a byte order mark.
            content = json.loads(Path(captions).read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise ValueError(
                f"{source} cannot be read: {error.strerror}. Give a JSON file with captions."
            ) from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{source} is not JSON ({error}). It must hold {_CAPTIONS}.") from error
    if isinstance(content, list):
        content = _captions_of_list(source, content)
    if not isinstance(content, dict):
        raise ValueError(f"{source} holds a {type(content).__name__}. It must hold {_CAPTIONS}.")
    for name, text in content.items():
        if not isinstance(text, str) or not text.strip() or not is_unicode(text):
            raise ValueError(f"{source}: the caption of {name!r} is {text!r}. Give a text, or omit the clip.")
    return content


def match_captions(captions: Mapping[str, str], names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Finds the caption of each clip, by its path within the folder, or its file name with or without the extension.

    Args:
        captions: {clip: text}, as `load_captions` returns it.
        names: Paths of the clips within the folder.

    Returns:
        {clip: caption} of the clips that have one, and the keys of the captions that name no clip.
    """
    matched, used = {}, set()
    for name in names:
        path = PurePosixPath(name)
        for key in (name, path.name, path.stem):
            if key in captions:
                matched[name] = captions[key].strip()
                used.add(key)
                break
    return matched, [key for key in captions if key not in used]


def leave_out_variable_rates(clips: dict[str, VideoClip], failures: dict[str, str]) -> None:
    """Moves still pictures and clips of variable rate, which have no rate to share, from `clips` to `failures`.

    Only files whose stated rate stands out are read: first those that differ from most, then, if that does not help,
    the others.
    """
    for least in (1, 0):
        rates = _group(clips.values(), lambda clip: _rate(clip.fps))
        if len(rates) == 1 and next(iter(rates)).isdigit():
            return
        rare = {clip.path for some in list(rates.values())[least:] for clip in some}
        for name in [name for name, clip in clips.items() if clip.path in rare]:
            try:
                check_constant_rate(clips[name].path)
            except UnreadableClipError as error:
                failures[name] = str(error)
                del clips[name]


def common_fps(clips: Iterable[VideoClip]) -> int:
    """Returns the frame rate that all clips share, in Hz.

    Raises:
        ValueError: The rates differ, are not stated, or are not whole numbers.
    """
    rates = _group(clips, lambda clip: _rate(clip.fps))
    remedy = "Set `fps`, the rate to resample them to, or `recorded_fps`, the rate at which their frames were recorded."
    if len(rates) > 1:
        raise ValueError(f"`fps` is not set, and the clips differ: {_listing(rates)}. {remedy}")
    (rate,) = rates
    if not rate.isdigit() or rate == "0":
        raise ValueError(
            f"`fps` is not set, and the clips play at {rate} frames per second; it must be a whole number for LeRobot. "
            f"{remedy}"
        )
    return int(rate)


def common_size(clips: Iterable[VideoClip]) -> tuple[int, int]:
    """Returns the height and width that all clips share, in pixels.

    Raises:
        ValueError: The sizes differ.
    """
    sizes = _group(clips, lambda clip: f"{clip.height}x{clip.width}")
    if len(sizes) > 1:
        raise ValueError(
            f"`size` is not set, and the clips differ (height x width): {_listing(sizes)}. Set the size to use."
        )
    height, width = next(iter(sizes)).split("x")
    return int(height), int(width)


def _walk(folder: Path) -> Iterator[Path]:
    """Yields the files of a folder and its subfolders, each folder once however many links lead to it."""
    seen: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = Path(parent, name)
            # A pipe or a device would wait forever to be read.
            if not name.startswith(".") and (path.is_file() or (path.is_symlink() and not path.exists())):
                yield path


def _try_probe(path: Path) -> VideoClip | str:
    """The clip, or the reason why it cannot be opened."""
    try:
        return probe_clip(path)
    except UnreadableClipError as error:
        return str(error)


def _captions_of_list(source: str, entries: list[Any]) -> dict[str, Any]:
    """{id: label} of a list of objects."""
    captions: dict[str, Any] = {}
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or not entry.keys() >= {"id", "label"}:
            raise ValueError(f"{source}: entry {number} is {entry!r}. It must hold {_CAPTIONS}.")
        name = str(entry["id"])
        if captions.setdefault(name, entry["label"]) != entry["label"]:
            raise ValueError(
                f"{source}: {name!r} has two labels, {captions[name]!r} and {entry['label']!r}. Keep one."
            )
    return captions


def _rate(fps: float | None) -> str:
    """The rate to show and compare; 29.97 Hz, or a phone's jitter, counts as the nearest whole number."""
    if fps is None:
        return "an unknown number of"
    return str(round(fps)) if math.isclose(fps, round(fps), rel_tol=0.02) else f"{fps:.2f}"


def _group(clips: Iterable[VideoClip], value: Callable[[VideoClip], str]) -> dict[str, list[VideoClip]]:
    """The clips by a value, the most frequent value first."""
    groups: dict[str, list[VideoClip]] = {}
    for clip in clips:
        groups.setdefault(value(clip), []).append(clip)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


def _listing(groups: Mapping[str, Sequence[VideoClip]]) -> str:
    """Values with the number of their clips and the name of one."""
    return ", ".join(
        f"{value} ({len(clips)} clip(s), such as {clips[0].path.name})" for value, clips in groups.items()
    )
