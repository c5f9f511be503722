"""Checks of the options of a video import, before anything is read or written."""

import math
from pathlib import Path


def check_options(*, camera_key: str, fit: str, storage: str, default_caption: str, num_workers: int) -> None:
    """Raises a ValueError for an option that does not fit by itself; `import_video` describes them."""
    name = camera_key.removeprefix("observation.images.")
    if camera_key != "observation.image" and (name == camera_key or not name):
        raise ValueError(
            f"camera_key is {camera_key!r}. LeRobot finds cameras by the keys `observation.image` and "
            "`observation.images.<name>`: use one of these."
        )
    if fit not in ("crop", "pad"):
        raise ValueError(f"fit is {fit!r}. Use `crop` or `pad`.")
    if storage not in ("video", "image"):
        raise ValueError(f"storage is {storage!r}. Use `video` or `image`.")
    if not default_caption.strip():
        raise ValueError("default_caption is empty. LeRobot wants a task for every episode: give a text.")
    if num_workers != int(num_workers) or num_workers < 0:
        raise ValueError(
            f"num_workers is {num_workers}. Give a whole number, 0 to decode one after the other."
        )


def check_alternatives(
    *,
    fps: int | None,
    recorded_fps: int | None,
    segments: object,
    window_s: float | None,
    overwrite: bool,
    resume: bool,
) -> None:
    """Raises a ValueError for a rate or length that is none, and for options that exclude each other."""
    for name, rate in (("fps", fps), ("recorded_fps", recorded_fps)):
        if rate is not None and (rate != int(rate) or rate < 1):
            raise ValueError(
                f"{name} is {rate}. LeRobot stores a whole number of frames per second, at least 1."
            )
    if window_s is not None and not (math.isfinite(window_s) and window_s > 0):
        raise ValueError(f"window_s is {window_s}. Give the length of a window in seconds, more than 0.")
    if fps is not None and recorded_fps is not None:
        raise ValueError(
            "fps and recorded_fps are both set. Choose one: resample, or keep every frame and say at which "
            "rate they were recorded."
        )
    if segments is not None and window_s is not None:
        raise ValueError(
            "segments and window_s are both set. Choose one: listed parts of the videos, or windows of one length."
        )
    if overwrite and resume:
        raise ValueError(
            "overwrite and resume are both set. Choose one: start anew, or add to what is there."
        )


def check_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """Returns height and width in pixels; raises a ValueError if one is below 1."""
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"size is {height}x{width} (height x width). Give at least one pixel each.")
    return height, width


def check_places(folder: Path, root: Path) -> None:
    """Raises a ValueError if there is no `folder`, or `root` would mix with it."""
    if not folder.is_dir():
        raise ValueError(f"folder {folder} is not a directory. Give the one that holds the clips.")
    source, target = folder.resolve(), root.resolve()
    if source.is_relative_to(target) or target.is_relative_to(source):
        raise ValueError(
            f"root {root} and the clips' folder {folder} lie within each other: the dataset would mix with "
            "its source. Choose a root elsewhere."
        )
