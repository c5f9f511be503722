"""Reading one video file: what it holds, and its frames upright, in RGB and in order."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace
from av.video.stream import VideoStream
from PIL import Image

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"}
)
"""File name endings, in lower case, that mark a file as a video clip."""


class UnreadableClipError(ValueError):
    """A file that is not a whole video; the message is the reason, without the file's name."""


@dataclass(frozen=True)
class VideoClip:
    """What a video file says about itself.

    Attributes:
        path: the file.
        height: of an upright frame, in pixels.
        width: of an upright frame, in pixels.
        fps: average frames per second, None when the container does not tell.
    """

    path: Path
    height: int
    width: int
    fps: float | None


def probe_clip(path: Path) -> VideoClip:
    """Opens a video file and decodes its first frame.

    Raises:
        UnreadableClipError: if the file is empty, is no video or has no picture.
    """
    with _open(path) as container:
        stream = _video_stream(container)
        rate = stream.average_rate or stream.guessed_rate
    # Size and rotation are what the decoder says: headers are allowed to be wrong about both.
    width, height = next(read_frames(path)).size
    return VideoClip(path=path, height=height, width=width, fps=float(rate) if rate else None)


def read_frames(path: Path) -> Iterator[Image.Image]:
    """Yields every frame of a video file, upright, as an RGB image; each is decoded when asked for.

    Raises:
        UnreadableClipError: if the file is no video, or, after its last good frame, if it does not decode
            further or ends before the length that its header states.
    """
    end = None
    with _open(path) as container:
        stream = _video_stream(container)
        stream.thread_type = "AUTO"
        try:
            for frame in container.decode(stream):
                if frame.time is not None and frame.time_base:
                    end = max(end or 0.0, frame.time + float(frame.duration * frame.time_base))
                yield _upright(frame)
        except av.FFmpegError as error:
            raise UnreadableClipError(f"does not decode beyond {end or 0:.2f} s: {error.strerror}") from error
        if end is None:
            raise UnreadableClipError("no frame could be decoded")
        stated_end = _stated_end(stream)
        # Two frames of slack: containers round the length, and many leave out the last frame's duration.
        if stated_end and stream.average_rate and stated_end - end > 2 / float(stream.average_rate):
            raise UnreadableClipError(f"cut off: only {end:.2f} s of {stated_end:.2f} s decode")


def _open(path: Path) -> av.container.InputContainer:
    if path.stat().st_size == 0:
        raise UnreadableClipError("empty file (0 bytes)")
    try:
        return av.open(str(path))
    except av.FFmpegError as error:
        raise UnreadableClipError(f"not a readable video: {error.strerror}") from error


def _video_stream(container: av.container.InputContainer) -> VideoStream:
    # The cover picture of a sound file is a video stream too.
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    raise UnreadableClipError("no video stream" + (" (sound only)" if container.streams.audio else ""))


def _stated_end(stream: VideoStream) -> float | None:
    """Returns the time in seconds at which the last frame should end, None where the file does not say."""
    if stream.duration is not None and stream.time_base:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    if "DURATION" in stream.metadata:  # Matroska and WebM: "00:00:02.000000000"
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    return None


def _upright(frame: VideoFrame) -> Image.Image:
    # Colour matrix and range are passed on: PyAV would take every video for BT.601 with limited range.
    image = frame.to_image(
        src_colorspace=int(frame.colorspace),
        dst_colorspace=Colorspace.ITU601,
        src_color_range=int(frame.color_range),
    )
    quarter_turns = round(frame.rotation / 90) % 4  # counter-clockwise, as phones note it
    return image.rotate(90 * quarter_turns, expand=True) if quarter_turns else image
