"""Video files made for a test, and a look at what became of them."""

import struct
from fractions import Fraction

import av
import numpy as np
from av.stream import Disposition

CAMERA = "observation.images.front"
RED, GREEN, BLUE, GREY = (200, 40, 40), (40, 200, 40), (40, 40, 200), (120, 120, 120)


def write_clip(
    path,
    *,
    num_frames=6,
    height=48,
    width=64,
    fps=10,
    codec="mpeg4",
    pix_fmt="yuv420p",
    color=None,
    pixel_aspect=None,
    **options,
):
    """Four colors, clockwise from the top left: red, green, gray, blue."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2], picture[: height // 2, width // 2 :] = RED, GREEN
    picture[height // 2 :, : width // 2], picture[height // 2 :, width // 2 :] = BLUE, GREY
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if color is not None:
            stream.codec_context.colorspace, stream.codec_context.color_range = color
        for _ in range(num_frames):
            frame = av.VideoFrame.from_ndarray(picture)
            if color is not None:
                frame = frame.reformat(
                    format=pix_fmt, src_colorspace=5, dst_colorspace=color[0], dst_color_range=color[1]
                )
                frame.colorspace, frame.color_range = color
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path, *, cover=False):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        if cover:
            picture = container.add_stream("mjpeg", rate=1)
            picture.width, picture.height, picture.pix_fmt = 64, 48, "yuvj420p"
            picture.disposition = Disposition.attached_pic.value
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        if cover:
            container.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8))))
            container.mux(picture.encode())
        container.mux(stream.encode())
    return path


def rotate_by_metadata(path, turn=(0, 1, -1, 0)):
    """Marks an mp4 as filmed with the phone turned: players show it a quarter turn clockwise.

    With another `turn` (a, b, c, d), what is at (x, y) is shown at (a x + c y, b x + d y).
    """
    a, b, c, d = (value << 16 for value in turn)
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44
    content[matrix : matrix + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


def corners(image):
    pixels = np.asarray(image).astype(int)
    return pixels[4, 4], pixels[4, -5], pixels[-5, -5], pixels[-5, 4]


def assert_colors(found, *expected):
    np.testing.assert_allclose(np.stack(found), np.stack(expected), atol=12)


def load(root):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset("local/clips", root=root)


def to_uint8(frame):
    return (frame.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)  # (H, W, 3)


def psnr(first, second):
    return 10 * np.log10(255**2 / np.square(first.astype(float) - second.astype(float)).mean())


GREY_STEP = 8
"""Between the gray levels of frames that follow each other in `write_numbered_clip`."""


def write_numbered_clip(
    path, times_ms, *, size=(32, 48), codec="libx264", gop=4, last_ms=100, **stream_options
):
    """Frame k is shown from `times_ms[k]` on, the last one for `last_ms`, and tells its number by its gray level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1000, options=stream_options)
        stream.height, stream.width = size
        stream.pix_fmt, stream.gop_size = "yuv420p", gop
        stream.codec_context.time_base = Fraction(1, 1000)
        durations = [*np.diff(times_ms).tolist(), last_ms]
        packets = []
        for index, time in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(np.full((*size, 3), 10 + GREY_STEP * index, np.uint8))
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            packets += stream.encode(frame)
        for packet in [*packets, *stream.encode()]:
            packet.duration = durations[times_ms.index(packet.pts)]
            container.mux(packet)
    return path


def numbers(images):
    """The numbers of frames of `write_numbered_clip`."""
    return [round((float(np.asarray(image).mean()) - 10) / GREY_STEP) for image in images]


def cut_off(path):
    """Takes away the last quarter of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    return path


def write_no_frames(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    return path


def write_noise(path):
    generator = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 5
        for _ in range(20):
            picture = generator.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    return path


def damage(path):
    """Flips some bytes in the middle of a file."""
    content = bytearray(path.read_bytes())
    for index in range(len(content) // 3, len(content) * 2 // 3, len(content) // 60):
        content[index] ^= 255
    path.write_bytes(content)
    return path
