"""Reading one video file: what it holds, and the frames of a time span, upright, in RGB and in order."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from av.video.frame import VideoFrame
from PIL import Image

from lerobot_lara.data.video.decode import (
    TIMESTAMP_ROUNDING_S,
    TimedFrame,
    UnreadableClipError,
    decode_frames,
    measure_duration,
    open_video,
    upright_image,
)

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"}
)
"""File name endings, in lower case, that mark a file as a video clip."""
MAX_INTERVAL_RATIO = 1.5
"""Longest over shortest time between frames in a video of constant frame rate. A phone's clock and a format
that rounds stay below it; one frame that was dropped is 2."""


@dataclass(frozen=True)
class VideoClip:
    """What a video file says about itself.

    Attributes:
        path: the file.
        height: of an upright frame, in pixels.
        width: of an upright frame, in pixels.
        fps: average frames per second, None when the container does not tell.
        duration: seconds from the first frame to the end of the last, None when the frames carry no times.
    """

    path: Path
    height: int
    width: int
    fps: float | None
    duration: float | None


def probe_clip(path: Path) -> VideoClip:
    """Opens a video file and decodes its first frame.

    Raises:
        UnreadableClipError: if the file is empty, is no video or has no picture.
    """
    with open_video(path) as (container, stream):
        rate = stream.average_rate or stream.guessed_rate
        duration = measure_duration(container, stream)
    # Size and rotation are what the decoder says: headers are allowed to be wrong about both.
    with closing(read_frames(path)) as frames:
        width, height = next(frames).size
    return VideoClip(
        path=path, height=height, width=width, fps=float(rate) if rate else None, duration=duration
    )


def read_frames(
    path: Path,
    *,
    start: float = 0.0,
    end: float | None = None,
    fps: int | None = None,
    constant_rate: bool = False,
    num_threads: int = 0,
) -> Generator[Image.Image, None, None]:
    """Yields frames of a video file, upright, as RGB images; each is decoded when asked for.

    Args:
        path: the file.
        start: seconds from the first frame.
        end: seconds from the first frame; the frame shown from `end` on is not part of it. By default the
            end of the file.
        fps: yield for every time `start + k / fps` the frame that is shown then, which repeats or leaves out
            frames where the file has fewer or more. By default every frame, once.
        constant_rate: raise where frames are not evenly spaced in time.
        num_threads: of the decoder; 0 leaves the number to it.

    Raises:
        UnreadableClipError: if the file is no video, or, after its last good frame, if it is damaged, does not
            decode further, stops before `end` or before the length that its header states, or breaks
            `constant_rate`.
    """
    with closing(decode_frames(path, start=start, end=end, num_threads=num_threads)) as decoded:
        if fps is not None:
            frames = resample_frames(decoded, fps=fps, start=start, end=end)
        else:
            span = _frames_of_span(decoded, start, end)
            frames = (timed.frame for timed in (_evenly_spaced(span) if constant_rate else span))
        for frame in frames:
            try:
                yield upright_image(frame)
            except ValueError as error:  # PyAV's word for pixels that it cannot convert
                raise UnreadableClipError(f"no picture in RGB: {error}") from error


def resample_frames(
    frames: Iterable[TimedFrame], *, fps: int, start: float, end: float | None
) -> Iterator[VideoFrame]:
    """Yields for every time `start + k / fps` before `end` the frame that is shown then.

    Args:
        frames: in the order of their times; before the first one, the first one counts as shown.
        fps: in Hz.
        start: in seconds.
        end: in seconds, by default the end of the last frame.
    """
    shown: TimedFrame | None = None
    count = 0
    for following in frames:
        until = following.start if end is None else min(following.start, end)
        while shown is not None and start + count / fps < until - TIMESTAMP_ROUNDING_S:
            yield shown.frame
            count += 1
        if end is not None and following.start >= end - TIMESTAMP_ROUNDING_S:
            return
        shown = following
    if shown is not None:
        until = shown.end if end is None else min(shown.end, end)
        while start + count / fps < until - 2 * TIMESTAMP_ROUNDING_S:  # start and duration are rounded both
            yield shown.frame
            count += 1


def _frames_of_span(frames: Iterable[TimedFrame], start: float, end: float | None) -> Iterator[TimedFrame]:
    """Yields the frames whose times lie in [start, end): spans that touch share no frame and lose none."""
    for timed in frames:
        if end is not None and timed.start >= end - TIMESTAMP_ROUNDING_S:
            return
        if timed.start >= start - TIMESTAMP_ROUNDING_S:
            yield timed


def _evenly_spaced(frames: Iterable[TimedFrame]) -> Iterator[TimedFrame]:
    before: TimedFrame | None = None
    shortest, longest = float("inf"), 0.0
    for timed in frames:
        if before is not None:
            interval = timed.start - before.start
            shortest, longest = min(shortest, interval), max(longest, interval)
            if longest > MAX_INTERVAL_RATIO * shortest + 2 * TIMESTAMP_ROUNDING_S:
                raise UnreadableClipError(
                    f"variable frame rate: frames are {1000 * shortest:.0f} to {1000 * longest:.0f} ms apart at "
                    f"{timed.start:.2f} s. Give fps, and it is resampled by the times of its frames."
                )
        before = timed
        yield timed
