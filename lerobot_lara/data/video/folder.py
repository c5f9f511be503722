"""What a folder of video clips holds: the clips, their captions, and the frame rate and size they share."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from lerobot_lara.data.video.clip import VIDEO_SUFFIXES, VideoClip, probe_clip
from lerobot_lara.data.video.decode import UnreadableClipError

_CAPTIONS = '{"clip.mp4": "text"} or [{"id": "clip", "label": "text"}]'


def find_clips(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Finds the clips of a folder and its sub-folders; files whose names start with a dot are not looked at.

    Returns:
        {path within the folder: path} of the clips, in the order of the keys, and the keys of all other files.

    Raises:
        ValueError: if there is no clip.
    """
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("[!.]*") if path.is_file()}
    clips = {name: files[name] for name in sorted(files) if files[name].suffix.lower() in VIDEO_SUFFIXES}
    others = sorted(files.keys() - clips.keys())
    if not clips:
        raise ValueError(
            f"folder {folder} holds no video clip, but {len(others)} other file(s). Clips are known by their "
            f"ending: {', '.join(sorted(VIDEO_SUFFIXES))}."
        )
    return clips, others


def probe_clips(
    paths: Mapping[str, Path], *, num_workers: int = 0
) -> tuple[dict[str, VideoClip], dict[str, str]]:
    """Opens every clip, `num_workers` at once.

    Returns:
        {name: clip} for those that open and {name: reason} for those that do not, in the order of `paths`.
    """
    clips, failures = {}, {}
    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        probed = tqdm(
            pool.map(_try_probe, paths.values()), desc="looking at clips", unit="clip", total=len(paths)
        )
        for name, clip in zip(paths, probed, strict=True):
            if isinstance(clip, VideoClip):
                clips[name] = clip
            else:
                failures[name] = clip
    return clips, failures


def load_captions(captions: str | Path | Mapping[str, str] | None) -> dict[str, str]:
    """Checks captions, {clip: text}, read from a JSON file unless they are a mapping already.

    The file may also be a list of objects with `id` and `label`, as Something-Something v2 has it; other keys
    of theirs are not used.

    Raises:
        ValueError: if the file is missing, is not JSON, or gives a clip no text or two different ones.
    """
    if captions is None:
        return {}
    if isinstance(captions, Mapping):
        source, content = "captions", dict(captions)
    else:
        source = f"captions file {captions}"
        try:
            content = json.loads(Path(captions).read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"{source} cannot be read: {error.strerror}. Give a JSON file.") from error
        except ValueError as error:
            raise ValueError(f"{source} is not JSON ({error}). Expected {_CAPTIONS}.") from error
    if isinstance(content, list):
        content = _captions_of_list(source, content)
    if not isinstance(content, dict):
        raise ValueError(f"{source} holds a {type(content).__name__}. Expected {_CAPTIONS}.")
    for name, text in content.items():
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{source}: the caption of {name!r} is {text!r}. Give a text, or leave it out.")
    return content


def match_captions(captions: Mapping[str, str], names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Finds the caption of each clip by its path within the folder, its file name, or that without the ending.

    Returns:
        {clip: caption}, without the clips that have none, and the keys of the captions that name no clip.
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


def common_fps(clips: Iterable[VideoClip]) -> int:
    """Returns the frame rate that all clips play at, in Hz.

    Raises:
        ValueError: if they differ, do not tell, or play at a rate that is not a whole number.
    """
    rates = Counter(_rate(clip.fps) for clip in clips)
    way_out = "Give fps, the rate to resample them to, or recorded_fps, the rate at which their frames were recorded."
    if len(rates) > 1:
        raise ValueError(f"fps is not given and the clips differ: {_listing(rates)}. {way_out}")
    (rate,) = rates
    if not rate.isdigit() or rate == "0":
        raise ValueError(
            f"fps is not given and the clips play at {rate} frames per second. LeRobot stores a whole number. "
            f"{way_out}"
        )
    return int(rate)


def common_size(clips: Iterable[VideoClip]) -> tuple[int, int]:
    """Returns the height and width that all clips have, in pixels.

    Raises:
        ValueError: if they differ.
    """
    sizes = Counter(f"{clip.height}x{clip.width}" for clip in clips)
    if len(sizes) > 1:
        raise ValueError(
            f"size is not given and the clips differ (height x width): {_listing(sizes)}. Say which to use."
        )
    height, width = next(iter(sizes)).split("x")
    return int(height), int(width)


def _try_probe(path: Path) -> VideoClip | str:
    try:
        return probe_clip(path)
    except UnreadableClipError as error:
        return str(error)


def _captions_of_list(source: str, entries: list[Any]) -> dict[str, Any]:
    captions: dict[str, Any] = {}
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or not entry.keys() >= {"id", "label"}:
            raise ValueError(f"{source}: entry {number} is {entry!r}. Expected {_CAPTIONS}.")
        name = str(entry["id"])
        if captions.setdefault(name, entry["label"]) != entry["label"]:
            raise ValueError(
                f"{source}: {name!r} has two labels, {captions[name]!r} and {entry['label']!r}. Keep one."
            )
    return captions


def _rate(fps: float | None) -> str:
    # 29.97 Hz, and the jitter of a phone, count as the whole number next to them.
    if fps is None:
        return "an unknown number of"
    return str(round(fps)) if math.isclose(fps, round(fps), rel_tol=0.02) else f"{fps:.2f}"


def _listing(counts: Counter[str]) -> str:
    return ", ".join(f"{value} ({count} clip(s))" for value, count in counts.most_common())
