"""Decodes one video file: its frames in order, each with the time at which it is shown."""

import math
import re
import struct
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import av
from av.container import InputContainer
from av.sidedata.sidedata import SideData
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace
from av.video.stream import VideoStream
from PIL import Image

TIMESTAMP_ROUNDING_S = 0.000501
"""Largest error of timestamps: Matroska and WebM round them to whole milliseconds."""

_TAIL_S = 10.0
_MAX_PIXEL_ASPECT = 8.0
"""Pixels that are wider or higher than this are taken for a mistake, and for square."""


class UnreadableClipError(ValueError):
    """A file is not a complete video; the message is the reason, without the name of the file."""


class TimedFrame(NamedTuple):
    """A decoded frame and when it is shown, in seconds from the first frame of its file."""

    start: float
    end: float
    frame: VideoFrame


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens a video file and finds its video stream, which the cover picture of an audio file is not.

    Raises:
        UnreadableClipError: The file cannot be opened or has no video stream.
    """
    try:
        if path.is_symlink() and not path.exists():
            raise UnreadableClipError(f"a link to {path.readlink()}, which does not exist")
        if path.stat().st_size == 0:
            raise UnreadableClipError("empty file (0 bytes)")
        # Titles and other metadata may be in any encoding and are not used.
        container = av.open(str(path), metadata_errors="replace")
    except (OSError, av.FFmpegError) as error:
        raise UnreadableClipError(f"not a readable video: {error.strerror}") from error
    with container:
        for stream in container.streams.video:
            if not stream.disposition & Disposition.attached_pic:
                if stream.codec_context is None:  # a drawing (SVG), or a codec that this FFmpeg lacks
                    raise UnreadableClipError("there is no decoder for its format")
                yield container, stream
                return
        raise UnreadableClipError("no video stream" + (" (audio only)" if container.streams.audio else ""))


def decode_frames(
    path: Path, *, start: float = 0.0, end: float | None = None, num_threads: int = 0
) -> Generator[TimedFrame, None, None]:
    """Yields the frames of a video file, beginning with the one shown at `start` or an earlier one.

    The caller stops where it wants; `end` only tells how far the file must reach.

    Args:
        path: The file.
        start: Seconds from the first frame.
        end: Seconds from the first frame; None is the end that the file states.
        num_threads: Threads of the decoder; 0 lets it choose.

    Raises:
        UnreadableClipError: The file is not a video; or, raised after its last good frame, it is damaged, cannot be
            decoded further or stops before `end`.
    """
    if start > 0:
        frames = _decode(path, seek=start, end=end, num_threads=num_threads)
        try:
            first = next(frames, None)
        except UnreadableClipError:  # decoding from the beginning works, or says why not
            first = None
        # Indexes may be wrong or absent, and then frames that were jumped over would be missing.
        if first is not None and first.start <= start + TIMESTAMP_ROUNDING_S:
            yield first
            yield from frames
            return
        frames.close()
    yield from _decode(path, seek=None, end=end, num_threads=num_threads)


def measure_duration(container: InputContainer, stream: VideoStream) -> float | None:
    """Measures the seconds from the first frame to the end of the last; None if the file has no times.

    The header may state too little if frames are reordered, so the last packets are read (not decoded), or all packets
    if the header states nothing. For a file that is cut off, the length in the header counts.
    """
    end = _stated_end(stream)
    interval = _interval(stream)
    try:
        if end is not None and stream.time_base:
            container.seek(int(max(0.0, end - _TAIL_S) / stream.time_base), stream=stream)
        for packet in container.demux(stream):
            if packet.pts is not None:
                start = float(packet.pts * packet.time_base)
                length = float(packet.duration * packet.time_base) if packet.duration else interval
                end = max(end or 0.0, start + length)
    except av.FFmpegError:
        pass  # decoding will say what is wrong with the file, if its frames are needed
    return None if end is None else end - _origin(stream)


def packet_times(path: Path) -> list[float]:
    """Lists the times of a video's frames in order, in seconds from the first, without decoding them.

    Raises:
        UnreadableClipError: The file is not a video, or is damaged.
    """
    with open_video(path) as (container, stream):
        try:
            times = sorted(
                float(packet.pts * packet.time_base)
                for packet in container.demux(stream)
                if packet.size > 0 and packet.pts is not None and packet.time_base is not None
            )
        except av.FFmpegError as error:
            raise UnreadableClipError(f"cannot be read to its end: {error.strerror}") from error
    return [time - times[0] for time in times]


def count_packets(path: Path) -> int:
    """Counts the packets of a video file, of which there is one for each frame, without decoding them.

    Raises:
        UnreadableClipError: The file is not a video, or is damaged.
    """
    with open_video(path) as (container, stream):
        try:
            return sum(packet.size > 0 for packet in container.demux(stream))
        except av.FFmpegError as error:
            raise UnreadableClipError(f"cannot be read to its end: {error.strerror}") from error


def pixel_aspect(path: Path) -> float:
    """Returns how much wider than high the pixels of a video are shown; 1 if the file does not state it.

    Raises:
        UnreadableClipError: The file is not a video.
    """
    with open_video(path) as (_, stream):
        aspect = float(stream.sample_aspect_ratio or 1)
    return aspect if 1 / _MAX_PIXEL_ASPECT <= aspect <= _MAX_PIXEL_ASPECT else 1.0


def displayed_image(frame: VideoFrame, aspect: float = 1.0) -> Image.Image:
    """Converts a frame to an RGB image as a player shows it.

    Args:
        frame: The frame; the display matrix of its file says how it is turned and mirrored.
        aspect: Width of its pixels relative to their height, see `pixel_aspect`. None of the resolution is lost.
    """
    # With color matrix and range, as PyAV would take every video for BT.601 with limited range.
    image = frame.to_image(
        src_colorspace=int(frame.colorspace),
        dst_colorspace=Colorspace.ITU601,
        src_color_range=int(frame.color_range),
    )
    if aspect > 1:
        image = image.resize((round(image.width * aspect), image.height), Image.Resampling.BICUBIC)
    elif aspect < 1:
        image = image.resize((image.width, round(image.height / aspect)), Image.Resampling.BICUBIC)
    for step in _orientation(frame):
        image = image.transpose(step)
    return image


def _orientation(frame: VideoFrame) -> list[Image.Transpose]:
    """The steps that turn and mirror a frame by quarter turns, as its display matrix says."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(matrix, SideData):
        return []
    # A pixel at (x, y) is shown at (a x + c y, b x + d y), from the left and the top.
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
    steps = []
    if abs(a) + abs(d) < abs(b) + abs(c):
        steps.append(Image.Transpose.TRANSPOSE)
        a, d = c, b
    if a < 0:
        steps.append(Image.Transpose.FLIP_LEFT_RIGHT)
    if d < 0:
        steps.append(Image.Transpose.FLIP_TOP_BOTTOM)
    return steps


def _decode(
    path: Path, *, seek: float | None, end: float | None, num_threads: int
) -> Generator[TimedFrame, None, None]:
    """Yields the frames from a key frame before `seek` on, or all of them.

    A frame without a time starts at the end of the one before it; directly after a seek, that is unknown (infinity).
    """
    with open_video(path) as (container, stream):
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = num_threads
        origin, interval, stated_end = _origin(stream), _interval(stream), _stated_end(stream)
        if end is None and stated_end is not None:
            end = stated_end - origin
        last: TimedFrame | None = None
        try:
            if seek is not None and stream.time_base:
                container.seek(int((seek + origin) / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                if frame.time is not None:
                    time = frame.time - origin
                elif last is not None:
                    time = last.end
                else:
                    time = 0.0 if seek is None else math.inf
                if last is not None:
                    yield last._replace(end=time)
                # Decoders fill in what is missing; directly after a seek, that is not damage.
                if frame.is_corrupt and (seek is None or time >= seek):
                    raise UnreadableClipError(f"damaged at {time:.2f} s")
                duration = float(frame.duration * frame.time_base) if frame.time_base else 0.0
                last = TimedFrame(time, time + (duration or interval), frame)
        except av.FFmpegError as error:
            if last is not None:
                yield last
            reached = last.end if last is not None else 0.0
            raise UnreadableClipError(
                f"cannot be decoded beyond {reached:.2f} s: {error.strerror}"
            ) from error
        if last is None:
            raise UnreadableClipError("no frame could be decoded")
        # With a tolerance of two frames, as containers round the length, and many omit the last frame's duration.
        if end is not None and end - last.end > 2 * interval > 0 and not _all_packets_there(path):
            yield last
            raise UnreadableClipError(f"cut off: only {last.end:.2f} s of {end:.2f} s can be decoded")
        yield last if end is None else last._replace(end=max(last.end, end))


def _all_packets_there(path: Path) -> bool:
    """Whether the file holds as many packets as its header states, in which case its last frame is shown for longer."""
    with open_video(path) as (_, stream):
        stated = stream.frames
    try:
        return 0 < stated <= count_packets(path)
    except UnreadableClipError:
        return False


def _interval(stream: VideoStream) -> float:
    """Average seconds between frames; 0 if the file does not state the rate."""
    rate = stream.average_rate or stream.guessed_rate
    return float(1 / rate) if rate else 0.0


def _origin(stream: VideoStream) -> float:
    """Time of the first frame in seconds; files need not start at zero."""
    return float(stream.start_time * stream.time_base) if stream.start_time and stream.time_base else 0.0


def _stated_end(stream: VideoStream) -> float | None:
    """Time in seconds at which the last frame should end; None if the header does not state it."""
    if stream.duration is not None and stream.time_base:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    for key, value in stream.metadata.items():  # Matroska and WebM: "00:00:02.000000000", by language
        if key.startswith("DURATION") and re.fullmatch(r"\d+:\d\d:\d\d(\.\d+)?", value):
            hours, minutes, seconds = value.split(":")
            return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    return None
