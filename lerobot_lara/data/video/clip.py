"""Reads one video file: its properties, and the frames of a time span, as a player shows them, in RGB and in order."""

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
    displayed_image,
    measure_duration,
    open_video,
    packet_times,
    pixel_aspect,
)

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"}
)
"""File name endings, in lower case, that mark a file as a video clip."""
MAX_INTERVAL_RATIO = 1.5
"""Largest ratio of the longest to the shortest time between frames at a constant frame rate. A phone's clock and
formats that round stay below it; a single dropped frame makes it 2."""


@dataclass(frozen=True)
class VideoClip:
    """Properties of a video file.

    Attributes:
        path: The file.
        height: Height of a frame as it is shown, in pixels.
        width: Width of a frame as it is shown, in pixels.
        fps: Average frames per second; None if the container does not state it.
        duration: Seconds from the first frame to the end of the last; None if the frames have no times.
    """

    path: Path
    height: int
    width: int
    fps: float | None
    duration: float | None


def probe_clip(path: Path) -> VideoClip:
    """Opens a video file and decodes its first frame.

    Raises:
        UnreadableClipError: The file is empty, is not a video or has no video stream.
    """
    with open_video(path) as (container, stream):
        rate = stream.average_rate or stream.guessed_rate
        duration = measure_duration(container, stream)
    # Size and rotation are taken from the decoder, as headers may be wrong about both.
    with closing(read_frames(path)) as frames:
        width, height = next(frames).size
    return VideoClip(
        path=path, height=height, width=width, fps=float(rate) if rate else None, duration=duration
    )


def check_constant_rate(path: Path) -> None:
    """Checks that a file is a video of a constant frame rate, without decoding it.

    Raises:
        UnreadableClipError: It is a still picture, its rate is variable, or it is damaged.
    """
    times = packet_times(path)
    if len(times) == 1:
        raise UnreadableClipError("a single frame: nothing moves")
    spacing = _Spacing()
    for time in times:
        spacing.add(time)


def read_frames(
    path: Path,
    *,
    start: float = 0.0,
    end: float | None = None,
    fps: int | None = None,
    constant_rate: bool = False,
    num_threads: int = 0,
) -> Generator[Image.Image, None, None]:
    """Yields frames of a video file as RGB images, as a player shows them; each is decoded when it is requested.

    Args:
        path: The file.
        start: Seconds from the first frame.
        end: Seconds from the first frame; the frame shown from `end` on is left out. None is the end of the file.
        fps: Yield for each time `start + k / fps` the frame shown at that time, which repeats or skips frames if the
            file has fewer or more. None yields every frame once.
        constant_rate: Raise an error where frames are not evenly spaced in time.
        num_threads: Threads of the decoder; 0 lets it choose.

    Raises:
        UnreadableClipError: The file is not a video; or, raised after its last good frame, it is damaged, cannot be
            decoded further, stops before `end` or before the length stated in its header, or violates
            `constant_rate`.
    """
    aspect = pixel_aspect(path)
    with closing(decode_frames(path, start=start, end=end, num_threads=num_threads)) as decoded:
        if fps is not None:
            frames = resample_frames(decoded, fps=fps, start=start, end=end)
        else:
            span = _frames_of_span(decoded, start, end)
            frames = (timed.frame for timed in (_evenly_spaced(span) if constant_rate else span))
        for frame in frames:
            try:
                yield displayed_image(frame, aspect)
            except ValueError as error:  # PyAV's error for pixels that it cannot convert
                raise UnreadableClipError(f"cannot be converted to RGB: {error}") from error


def resample_frames(
    frames: Iterable[TimedFrame], *, fps: int, start: float, end: float | None
) -> Iterator[VideoFrame]:
    """Yields for each time `start + k / fps` before `end` the frame that is shown at that time.

    Args:
        frames: Frames in order of time; the first one also counts as shown before its own time.
        fps: Frames per second to yield.
        start: First time, in seconds.
        end: End of the time span, in seconds; None is the end of the last frame.
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
        while start + count / fps < until - 2 * TIMESTAMP_ROUNDING_S:  # both start and duration are rounded
            yield shown.frame
            count += 1


def _frames_of_span(frames: Iterable[TimedFrame], start: float, end: float | None) -> Iterator[TimedFrame]:
    """Yields the frames whose times lie in [start, end), so that adjacent spans neither share nor lose frames."""
    for timed in frames:
        if end is not None and timed.start >= end - TIMESTAMP_ROUNDING_S:
            return
        if timed.start >= start - TIMESTAMP_ROUNDING_S:
            yield timed


def _evenly_spaced(frames: Iterable[TimedFrame]) -> Iterator[TimedFrame]:
    """Yields the frames, and raises an error as soon as they are not evenly spaced in time."""
    spacing = _Spacing()
    for timed in frames:
        spacing.add(timed.start)
        yield timed


class _Spacing:
    """The shortest and the longest time between frames so far."""

    def __init__(self) -> None:
        self._before: float | None = None
        self._shortest, self._longest = float("inf"), 0.0

    def add(self, time: float) -> None:
        """Takes the time of the next frame, in seconds.

        Raises:
            UnreadableClipError: The frames are not evenly spaced.
        """
        if self._before is not None:
            interval = time - self._before
            self._shortest, self._longest = min(self._shortest, interval), max(self._longest, interval)
            if self._longest > MAX_INTERVAL_RATIO * self._shortest + 2 * TIMESTAMP_ROUNDING_S:
                raise UnreadableClipError(
                    f"variable frame rate: frames are {1000 * self._shortest:.0f} to {1000 * self._longest:.0f} ms "
                    f"apart at {time:.2f} s. Set `fps` to resample it by the times of its frames."
                )
        self._before = time
