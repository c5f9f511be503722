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

SEGMENT_COLUMNS = ("file", "start", "end", "caption")
MIN_WINDOW_S = 0.5
"""Seconds. A last window shorter than this, and than the other windows, is left out."""
END_TOLERANCE_S = 0.1
"""Seconds by which a segment may end after its video: annotations are often rounded to a tenth."""


@dataclass(frozen=True)
class Segment:
    """A part of a video.

    Attributes:
        file: the video's path within the folder.
        start: seconds from the first frame.
        end: seconds from the first frame, None for the end of the video.
        caption: what happens in it, None when its source does not say.
    """

    file: str
    start: float = 0.0
    end: float | None = None
    caption: str | None = None

    @property
    def name(self) -> str:
        """The file, with a W3C media fragment for a part of it: `a.mp4#t=1.5,3`."""
        if self.start == 0 and self.end is None:
            return self.file
        end = "" if self.end is None else f",{_seconds(self.end)}"
        return f"{self.file}#t={_seconds(self.start)}{end}"


def load_segments(segments: str | Path | Iterable[Mapping[str, Any]], files: Iterable[str]) -> list[Segment]:
    """Checks segments and finds their files.

    Args:
        segments: rows with the keys of `SEGMENT_COLUMNS`, of which all but `file` may be absent or empty; or
            a CSV file with these columns, or a JSON file with a list of such objects. `start` and `end` are
            seconds. A file is named by its path within the folder, its file name, or that without the ending.
        files: paths within the folder.

    Returns:
        The segments in their order, with `file` a path within the folder.

    Raises:
        ValueError: if a row has another key, a time that is none, is negative or not before its end, names no
            file or several, or comes twice.
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
                f"{place}: file {segment.file!r} may be {' or '.join(candidates)}. Give the path within the folder."
            )
        if not candidates:
            missing.append(f"{segment.file} (row {number})")
            continue
        segment = replace(segment, file=candidates[0])
        if segment.name in found:
            raise ValueError(f"{place}: {segment.name} comes a second time. Leave one of the two out.")
        found[segment.name] = segment
    if missing:
        raise ValueError(
            f"{source}: file names {len(missing)} video(s) that the folder does not hold: {_some(missing)}. Add "
            "them, correct the names, or leave these rows out."
        )
    if not found:
        raise ValueError(f"{source} holds no segment. Give at least one row.")
    return list(found.values())


def fit_segments(segments: Sequence[Segment], clips: Mapping[str, VideoClip]) -> list[Segment]:
    """Returns the segments of readable clips, cut where their video ends within `END_TOLERANCE_S` of them.

    Raises:
        ValueError: if one lies beyond the end of its video.
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
            f"segments: start or end of {len(beyond)} lies beyond the end of the video: {_some(beyond)}. Correct "
            "the times, in seconds, or leave these rows out."
        )
    return fitted


def window_segments(
    clips: Mapping[str, VideoClip], window_s: float
) -> tuple[list[Segment], dict[str, str], dict[str, str]]:
    """Cuts every clip into windows of `window_s` seconds that follow each other, the last one shorter.

    Returns:
        The windows; {window: reason} for last windows shorter than `MIN_WINDOW_S` (and than `window_s`), and
        {clip: reason} for clips that give no window.
    """
    windows: list[Segment] = []
    skipped: dict[str, str] = {}
    failures: dict[str, str] = {}
    shortest = min(MIN_WINDOW_S, window_s)
    for name, clip in clips.items():
        if clip.duration is None:
            failures[name] = "its frames carry no times, so it cannot be cut into windows"
            continue
        # A millisecond more than a whole number of windows is the rounding of timestamps.
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
    if not isinstance(segments, str | Path):
        return "segments", list(segments)
    path = Path(segments)
    source = f"segments file {path}"
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets mark UTF-8
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{source} cannot be read: {getattr(error, 'strerror', error)}. Give a CSV or JSON file in UTF-8."
        ) from error
    if path.suffix.lower() == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
        _check_columns(source, reader.fieldnames or [])
        return source, list(reader)
    if path.suffix.lower() != ".json":
        raise ValueError(f"{source} ends in {path.suffix!r}. Give a .csv or a .json file.")
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{source} is not JSON ({error}). Expected a list of objects.") from error
    if not isinstance(rows, list):
        raise ValueError(
            f'{source} holds a {type(rows).__name__}. Expected [{{"file": "a.mp4", "start": 0, "end": 2.5}}].'
        )
    return source, rows


def _check_columns(place: str, columns: Iterable[str]) -> None:
    unknown = [column for column in columns if column not in SEGMENT_COLUMNS]
    if unknown or "file" not in columns:
        problem = f"unknown column(s) {', '.join(map(repr, unknown))}" if unknown else "no column 'file'"
        raise ValueError(f"{place}: {problem}. The columns are {', '.join(SEGMENT_COLUMNS)}.")


def _parse_row(place: str, row: Any) -> Segment:
    if not isinstance(row, Mapping):
        raise ValueError(f"{place} is a {type(row).__name__}. Expected an object with {SEGMENT_COLUMNS}.")
    if None in row:  # how `csv` names what is left over
        raise ValueError(f"{place} has more cells than columns. Put quotes around a caption with a comma.")
    _check_columns(place, row)
    file, caption = row["file"], row.get("caption")
    if not isinstance(file, str) or not file.strip():
        raise ValueError(f"{place}: file is {file!r}. Name a video of the folder.")
    if caption is not None and not isinstance(caption, str):
        raise ValueError(f"{place}: caption is {caption!r}. Give a text, or leave it out.")
    start, end = _parse_time(place, "start", row), _parse_time(place, "end", row)
    if end is not None and (start or 0.0) >= end:
        raise ValueError(
            f"{place}: start {start or 0:g} is not before end {end:g}. Give seconds, start < end."
        )
    return Segment(file.strip(), start or 0.0, end, (caption or "").strip() or None)


def _parse_time(place: str, field: str, row: Mapping[str, Any]) -> float | None:
    value = row.get(field)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        seconds = float("nan" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(
            f"{place}: {field} is {value!r}. Give seconds from the video's first frame, 0 or more."
        )
    return round(seconds, 6)


def _paths_by_name(files: Iterable[str]) -> dict[str, list[str]]:
    """Returns the paths that each name stands for; a path stands for itself alone."""
    names: dict[str, list[str]] = {}
    paths = list(files)
    for path in paths:
        pure = PurePosixPath(path)
        for name in {pure.name, pure.stem}:
            names.setdefault(name, []).append(path)
    return names | {path: [path] for path in paths}


def _seconds(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _some(items: Sequence[str], shown: int = 10) -> str:
    return ", ".join(items[:shown]) + (f" and {len(items) - shown} more" if len(items) > shown else "")
