"""Checks the options of a video import before anything is read or written; `import_video` describes them."""

import math
import re
from pathlib import Path

MAX_FPS = 1000
"""Hz; a greater number is taken for a mistake."""
MAX_VIDEO_FPS = 240
"""Hz; the greatest rate of LeRobot's default video encoder, SVT-AV1."""
MAX_SIDE = 8192
"""Pixels; a greater frame is taken for a mistake."""
MAX_WORKERS = 256


def check_options(
    *,
    camera_key: str,
    fit: str,
    storage: str,
    default_caption: str,
    robot_type: str | None,
    num_workers: int,
) -> None:
    """Checks options one by one.

    Raises:
        ValueError: One is not among the allowed values.
    """
    name = camera_key.removeprefix("observation.images.")
    if camera_key != "observation.image" and (name == camera_key or not re.fullmatch(r"[\w-]+", name)):
        raise ValueError(
            f"`camera_key` is {camera_key!r}; it must be `observation.image` or `observation.images.<name>`, by which "
            "LeRobot recognizes cameras. Give a name of letters, digits, `_` and `-`."
        )
    if fit not in ("crop", "pad"):
        raise ValueError(f"`fit` is {fit!r}; it must be 'crop' or 'pad'.")
    if storage not in ("video", "image"):
        raise ValueError(f"`storage` is {storage!r}; it must be 'video' or 'image'.")
    if not default_caption.strip():
        raise ValueError(
            "`default_caption` is empty; it must be a text, as LeRobot needs a task for every episode."
        )
    for option, text in (("default_caption", default_caption), ("robot_type", robot_type)):
        if text is not None and not is_unicode(text):
            raise ValueError(f"`{option}` is {text!r}; it must be a text in UTF-8, as LeRobot stores it so.")
    if num_workers != int(num_workers) or not 0 <= num_workers <= MAX_WORKERS:
        raise ValueError(
            f"`num_workers` is {num_workers}; it must be a whole number, or 0 to decode clips one after the other, and "
            f"at most {MAX_WORKERS}."
        )


def check_alternatives(
    *,
    fps: int | None,
    recorded_fps: int | None,
    storage: str,
    segments: object,
    window_s: float | None,
    overwrite: bool,
    resume: bool,
) -> None:
    """Checks rates and lengths, and options that exclude each other.

    Raises:
        ValueError: A rate or length is out of range, or two options that exclude each other are set.
    """
    for name, rate in (("fps", fps), ("recorded_fps", recorded_fps)):
        if rate is not None and (rate != int(rate) or rate < 1):
            raise ValueError(
                f"`{name}` is {rate}; it must be a whole number of frames per second, at least 1, for LeRobot."
            )
        if rate is not None:
            check_rate(name, rate, storage)
    if window_s is not None and not (math.isfinite(window_s) and window_s > 0):
        raise ValueError(f"`window_s` is {window_s}; it must be the length of a window in seconds, above 0.")
    if fps is not None and recorded_fps is not None:
        raise ValueError(
            "`fps` and `recorded_fps` are both set; they exclude each other. Set `fps` to resample, or `recorded_fps` "
            "to keep every frame."
        )
    if segments is not None and window_s is not None:
        raise ValueError(
            "`segments` and `window_s` are both set; they exclude each other. Set `segments` to import listed parts, "
            "or `window_s` for windows of one length."
        )
    if overwrite and resume:
        raise ValueError(
            "`overwrite` and `resume` are both set; they exclude each other. Set `overwrite` to start over, or "
            "`resume` to add to the dataset."
        )


def check_rate(name: str, rate: int, storage: str) -> None:
    """Checks that a frame rate can be stored.

    Raises:
        ValueError: It is too high.
    """
    most = MAX_VIDEO_FPS if storage == "video" else MAX_FPS
    if rate > most:
        way_out = f", or `storage=image` for up to {MAX_FPS}" if storage == "video" else ""
        raise ValueError(
            f"`{name}` is {rate}; it must be at most {most} frames per second with `storage={storage}`. Choose a lower "
            f"one{way_out}."
        )


def check_window(window_s: float | None, fps: float) -> None:
    """Checks the length of windows against the highest frame rate.

    Args:
        window_s: Length in seconds; None if there are no windows.
        fps: Highest rate at which frames are taken; 0 if it is unknown.

    Raises:
        ValueError: No window would hold two frames.
    """
    fps = fps or MAX_FPS
    if window_s is not None and window_s * fps < 2:
        raise ValueError(
            f"`window_s` is {window_s:g}; it must be at least {math.ceil(2000 / fps) / 1000:g} s, the time of two "
            f"frames at {fps:g} frames per second. Choose a longer one."
        )


def is_unicode(text: str) -> bool:
    """Whether a text can be stored as UTF-8; bytes that are not, in arguments and names of files, cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def check_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """Returns height and width in pixels.

    Args:
        size: Height and width, or one number for both.

    Raises:
        ValueError: One of them is below 1 or above `MAX_SIDE`.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"`size` is {height}x{width} (height x width); both must be at least 1 pixel.")
    if height > MAX_SIDE or width > MAX_SIDE:
        raise ValueError(
            f"`size` is {height}x{width} (height x width); both must be at most {MAX_SIDE} pixels. Choose a "
            "smaller one."
        )
    return height, width


def check_places(folder: Path, root: Path) -> None:
    """Checks the folder of the clips and that of the dataset.

    Raises:
        ValueError: There is no `folder`, one of the two is inside the other, or LeRobot cannot write to `root`.
    """
    if not is_unicode(str(root)):
        raise ValueError(f"`root` is {str(root)!r}; it must be a path in UTF-8. Choose another one.")
    if not folder.is_dir():
        raise ValueError(f"`folder` is {folder}, which is not a folder; it must be the folder of the clips.")
    source, destination = folder.resolve(), root.resolve()
    if source.is_relative_to(destination) or destination.is_relative_to(source):
        raise ValueError(
            f"`root` is {root}; it must not contain the clips' folder {folder} or be inside it. Choose another one."
        )
