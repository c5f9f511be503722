"""Which part of which video becomes an episode: whole videos, listed segments, or windows of fixed length."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from lerobot_lara.data.video.clip import VideoClip
from lerobot_lara.data.video.options import is_unicode

SEGMENT_COLUMNS = ("file", "start", "end", "caption")
MIN_WINDOW_S = 0.5
"""Seconds; a last window that is shorter than this, and than the other windows, is left out."""
END_TOLERANCE_S = 0.1
"""Seconds by which a segment may end after its video: annotations are often rounded to a tenth."""


@dataclass(frozen=True)
class Segment:
    """A part of a video.

    Attributes:
        file: Path of the video within the folder.
        start: Seconds from the first frame.
        end: Seconds from the first frame; None is the end of the video.
        caption: What happens in the segment; None if unknown.
    """

    file: str
    start: float = 0.0
    end: float | None = None
    caption: str | None = None

    @property
    def name(self) -> str:
        """The file, followed by a W3C media fragment if this is a part of it: `a.mp4#t=1.5,3`."""
        if self.start == 0 and self.end is None:
            return self.file
        end = "" if self.end is None else f",{_seconds(self.end)}"
        return f"{self.file}#t={_seconds(self.start)}{end}"


def load_segments(segments: str | Path | Iterable[Mapping[str, Any]], files: Iterable[str]) -> list[Segment]:
    """Loads and checks segments, and finds their files.

    Args:
        segments: Rows with the keys in `SEGMENT_COLUMNS`, of which all but `file` may be absent or empty; or a CSV file
            with these columns; or a JSON file with a list of such objects. `start` and `end` are in seconds. A file is
            named by its path within the folder, or its file name with or without the extension.
        files: Paths within the folder.

    Returns:
        The segments in their order; `file` is a path within the folder.

    Raises:
        ValueError: A row has an unknown key or an invalid time, its start is not before its end, its file is missing or
            ambiguous, or it is repeated.
    """
    source, rows = _read_rows(segments)
    paths = _paths_by_name(files)
    found: dict[str, Segment] = {}
    missing: list[str] = []
    for number, row in enumerate(rows, start=1):
        place = f"{source}, row {number}"
        segment = _parse_row(place, row)
        candidates = paths.get(segment.file, [])
        if len(candidates) > 1:
            raise ValueError(
                f"{place}: `file` is {segment.file!r}, which may be {' or '.join(candidates)}. Give the path within "
                "the folder."
            )
        if not candidates:
            missing.append(f"{segment.file} (row {number})")
            continue
        segment = replace(segment, file=candidates[0])
        if segment.name in found:
            raise ValueError(f"{place}: {segment.name} is repeated. Remove one of the two rows.")
        found[segment.name] = segment
    if missing:
        raise ValueError(
            f"{source}: `file` names {len(missing)} video(s) that are not in the folder: {_some(missing)}. Add them, "
            "correct the names, or remove these rows."
        )
    if not found:
        raise ValueError(f"{source} holds no segment. Add at least one row.")
    return list(found.values())


def fit_segments(segments: Sequence[Segment], clips: Mapping[str, VideoClip]) -> list[Segment]:
    """Fits segments to the lengths of their videos.

    Args:
        segments: The segments.
        clips: Path within the folder -> clip, of the readable ones.

    Returns:
        The segments of readable clips; one that ends at most `END_TOLERANCE_S` after its video is shortened.

    Raises:
        ValueError: A segment lies beyond the end of its video.
    """
    fitted, beyond = [], []
    for segment in segments:
        if segment.file not in clips:
            continue
        duration = clips[segment.file].duration
        last = segment.start if segment.end is None else segment.end - END_TOLERANCE_S
        if duration is not None and (last > duration or segment.start >= duration):
            beyond.append(f"{segment.name} (the video is {_seconds(duration)} s long)")
        elif duration is not None and segment.end is not None:
            segment = replace(segment, end=min(segment.end, duration))
        fitted.append(segment)
    if beyond:
        raise ValueError(
            f"`segments` has {len(beyond)} whose `start` or `end` is beyond the end of the video: {_some(beyond)}. "
            "Correct the times, in seconds, or remove these rows."
        )
    return fitted


def window_segments(
    clips: Mapping[str, VideoClip], window_s: float
) -> tuple[list[Segment], dict[str, str], dict[str, str]]:
    """Cuts every clip into consecutive windows of `window_s` seconds, the last of which may be shorter.

    Args:
        clips: Path within the folder -> clip.
        window_s: Length of the windows in seconds, above 0.

    Returns:
        The windows; {window: reason} of last windows that are shorter than `MIN_WINDOW_S` (and than `window_s`); and
        {clip: reason} of clips without any window.
    """
    windows: list[Segment] = []
    skipped: dict[str, str] = {}
    failures: dict[str, str] = {}
    shortest = min(MIN_WINDOW_S, window_s)
    for name, clip in clips.items():
        if clip.duration is None:
            failures[name] = "its frames have no times, so it cannot be cut into windows"
            continue
        # Up to a millisecond more than a whole number of windows is due to rounded timestamps.
        num_windows = max(1, math.ceil((clip.duration - 0.001) / window_s))
        parts = [
            Segment(name, round(k * window_s, 6), round(min((k + 1) * window_s, clip.duration), 6))
            for k in range(num_windows)
        ]
        length = clip.duration - parts[-1].start
        if length < shortest - 0.001:
            last = parts.pop()
            reason = f"{length:.2f} s long, shorter than the shortest window of {shortest:g} s"
            (skipped if parts else failures)[last.name if parts else name] = reason
        windows.extend(parts)
    return windows, skipped, failures


def _read_rows(segments: str | Path | Iterable[Mapping[str, Any]]) -> tuple[str, list[Any]]:
    """Where the segments come from, for errors, and their rows."""
    if not isinstance(segments, str | Path):
        return "`segments`", list(segments)
    path = Path(segments)
    source = str(path)
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets write a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{source} cannot be read: {getattr(error, 'strerror', error)}. Give a CSV or JSON file in UTF-8."
        ) from error
    if path.suffix.lower() == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
        try:
            _check_columns(source, reader.fieldnames or [])
            return source, list(reader)
        except csv.Error as error:
            raise ValueError(
                f"{source} is not CSV ({error}). Check what follows line {reader.line_num}."
            ) from error
    if path.suffix.lower() != ".json":
        raise ValueError(f"{source} ends in {path.suffix!r}; it must end in .csv or .json. Convert the file.")
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source} is not JSON ({error}). It must hold a list of objects.") from error
    if not isinstance(rows, list):
        raise ValueError(
            f'{source} holds a {type(rows).__name__}. It must hold [{{"file": "a.mp4", "start": 0, "end": 2.5}}].'
        )
    return source, rows


def _check_columns(place: str, columns: Iterable[str]) -> None:
    """Refuses unknown columns, and rows without a file."""
    unknown = [column for column in columns if column not in SEGMENT_COLUMNS]
    if unknown or "file" not in columns:
        problem = f"unknown column(s) {', '.join(map(repr, unknown))}" if unknown else "no column 'file'"
        raise ValueError(
            f"{place} has {problem}; the columns must be {', '.join(SEGMENT_COLUMNS)}. All but `file` may be left out."
        )


def _parse_row(place: str, row: Any) -> Segment:
    """Reads a row, whose `file` stays as it is written there."""
    if not isinstance(row, Mapping):
        raise ValueError(f"{place} is a {type(row).__name__}; it must be an object with {SEGMENT_COLUMNS}.")
    if None in row:  # the key under which `csv` puts surplus cells
        raise ValueError(f"{place} has more cells than columns. Put a caption with a comma in quotes.")
    _check_columns(place, row)
    file, caption = row["file"], row.get("caption")
    if not isinstance(file, str) or not file.strip():
        raise ValueError(f"{place}: `file` is {file!r}; it must name a video in the folder.")
    if caption is not None and not (isinstance(caption, str) and is_unicode(caption)):
        raise ValueError(
            f"{place}: `caption` is {caption!r}; it must be a text. Leave it out if there is none."
        )
    start, end = _parse_time(place, "start", row), _parse_time(place, "end", row)
    if end is not None and (start or 0.0) >= end:
        raise ValueError(
            f"{place}: `start` is {start or 0:g}; it must be before `end`, {end:g}. Both are in seconds."
        )
    return Segment(file.strip(), start or 0.0, end, (caption or "").strip() or None)


def _parse_time(place: str, field: str, row: Mapping[str, Any]) -> float | None:
    """Reads a time in seconds; None if it is absent or empty."""
    value = row.get(field)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        seconds = float("nan" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(
            f"{place}: `{field}` is {value!r}; it must be a number of seconds from the video's first frame, at least 0."
        )
    return round(seconds, 6)


def _paths_by_name(files: Iterable[str]) -> dict[str, list[str]]:
    """The paths that each name may stand for; a full path stands only for itself."""
    names: dict[str, list[str]] = {}
    paths = list(files)
    for path in paths:
        pure = PurePosixPath(path)
        for name in {pure.name, pure.stem}:
            names.setdefault(name, []).append(path)
    return names | {path: [path] for path in paths}


def _seconds(value: float) -> str:
    """Seconds with up to six decimals."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _some(items: Sequence[str], shown: int = 10) -> str:
    """The first items, and how many more there are."""
    return ", ".join(items[:shown]) + (f" and {len(items) - shown} more" if len(items) > shown else "")
