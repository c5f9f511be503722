"""Turns a folder of videos into an action-free LeRobotDataset, in which a clip, segment or window is an episode."""

import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from lerobot_lara.data.video.clip import VideoClip, read_frames
from lerobot_lara.data.video.dataset import (
    ERRORS_PATH,
    MANIFEST_PATH,
    ImportSettings,
    check_settings,
    dataset_root,
)
from lerobot_lara.data.video.decode import UnreadableClipError
from lerobot_lara.data.video.folder import (
    common_fps,
    common_size,
    find_clips,
    leave_out_variable_rates,
    load_captions,
    match_captions,
    probe_clips,
)
from lerobot_lara.data.video.options import (
    check_alternatives,
    check_options,
    check_places,
    check_rate,
    check_size,
    check_window,
)
from lerobot_lara.data.video.segments import Segment, fit_segments, load_segments, window_segments
from lerobot_lara.data.video.stage_clip import StagedClip, stage_clip
from lerobot_lara.data.video.staging import (
    Existing,
    clip_folder,
    open_existing,
    start_staging,
    writing,
)
from lerobot_lara.data.video.workers import decode_in_order
from lerobot_lara.files.atomic import write_json
from lerobot_lara.files.lock import only_run
from lerobot_lara.files.staging import discard_staging, move_into_place, new_folder

DEFAULT_CAMERA_KEY = "observation.images.front"
DEFAULT_CAPTION = "video without caption"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImportResult:
    """The outcome of `import_video`. A part of a file is named as in `Segment.name`, for example `a.mp4#t=1.5,3`.

    Attributes:
        root: Folder of the dataset.
        settings: Frame rate, size and other settings of the dataset.
        imported: Clips that this call added, relative to the source folder, in the order of their episodes; those that
            an import which was killed had finished are among them.
        num_episodes: Episodes in the whole dataset, including earlier ones.
        num_frames: Frames in the whole dataset.
        failures: Name -> reason, of files and parts of files that could not be imported.
        skipped: Name -> reason, of last windows that were too short.
        without_caption: Imported clips that got the default caption.
        unused_captions: Keys of the captions that name no clip.
        without_segment: Clips of the folder that no segment names; empty if `segments` is not given.
        ignored: Files of the source folder that are not videos by their extension.
    """

    root: Path
    settings: ImportSettings
    imported: list[str]
    num_episodes: int
    num_frames: int
    failures: dict[str, str]
    skipped: dict[str, str]
    without_caption: list[str]
    unused_captions: list[str]
    without_segment: list[str]
    ignored: list[str]


def import_video(
    folder: str | Path,
    repo_id: str,
    *,
    root: str | Path | None = None,
    fps: int | None = None,
    recorded_fps: int | None = None,
    size: int | tuple[int, int] | None = None,
    fit: Literal["crop", "pad"] = "crop",
    segments: str | Path | Iterable[Mapping[str, Any]] | None = None,
    window_s: float | None = None,
    captions: str | Path | Mapping[str, str] | None = None,
    default_caption: str = DEFAULT_CAPTION,
    storage: Literal["video", "image"] = "video",
    camera_key: str = DEFAULT_CAMERA_KEY,
    robot_type: str | None = None,
    num_workers: int = 0,
    overwrite: bool = False,
    resume: bool = False,
) -> ImportResult:
    """Imports a folder of videos as a LeRobotDataset v3 without actions and states.

    Every clip, in the order of the paths, becomes one episode with the feature `camera_key` and a task; with
    `segments` or `window_s`, every segment or window does. Without `fps`, every frame is kept, and none is dropped or
    repeated. Frames are turned and mirrored, and their pixels made square, as the file says, and resized with their
    aspect ratio kept. The statistics of the images are computed by LeRobot. A clip that is damaged, truncated, without
    a video stream, shorter than two frames or, without `fps`, of variable frame rate is left out entirely, and
    reported in the log, in the result and in the dataset's `meta/import_errors.json`.

    Args:
        folder: Folder that is searched for clips, including its subfolders.
        repo_id: Name of the dataset, "user/name".
        root: Folder of the dataset; None is `$HF_LEROBOT_HOME/<repo_id>`.
        fps: Rate in Hz to resample to, by taking for each time k / fps the frame shown at that time. None is the rate
            that all clips share.
        recorded_fps: Rate in Hz at which frames were recorded, for clips that do not play in real time: RT-1 was
            recorded at 3 Hz, and its clips play at 30 Hz. All frames are kept. Excludes `fps`.
        size: Height and width in pixels, or one number for both; None is the size that all clips share.
        fit: "crop" cuts off what does not fit on both sides, "pad" adds black bars.
        segments: Parts of videos to import, see `load_segments`; everything else is left out.
        window_s: Length in seconds of the windows into which every video is cut. The last window may be shorter, and is
            left out if it is shorter than `MIN_WINDOW_S`. Excludes `segments`.
        captions: {clip: text}, or a JSON file; see `load_captions`. A clip is named by its path within `folder`, or its
            file name with or without the extension. The text becomes the task of the clip's episodes, except for
            segments with captions of their own.
        default_caption: Task of a clip without a caption.
        storage: "video" (small) or "image" (lossless and fast to decode).
        camera_key: Feature that holds the frames, `observation.image` or `observation.images.<name>`.
        robot_type: Robot noted in the dataset's metadata.
        num_workers: Clips to decode at once, ahead of writing; the dataset does not depend on it.
        overwrite: Replace the dataset at `root`; the old one is deleted once the new one is complete.
        resume: Add the clips, segments or windows that the dataset at `root`, if there is one, does not hold yet. An
            import that was killed is continued; the clips that it had finished are kept, in `<root>.partial`.

    Returns:
        What was imported and what was left out.

    Raises:
        ValueError: An argument is out of range; a segment does not fit its video; `root` exists and neither `overwrite`
            nor `resume` is set, or it cannot be written; the folder has no readable clip; or clips differ in rate or
            size, and `fps` or `size` is not set.
    """
    folder = Path(folder)
    check_options(
        camera_key=camera_key,
        fit=fit,
        storage=storage,
        default_caption=default_caption,
        robot_type=robot_type,
        num_workers=num_workers,
    )
    check_alternatives(
        fps=fps,
        recorded_fps=recorded_fps,
        storage=storage,
        segments=segments,
        window_s=window_s,
        overwrite=overwrite,
        resume=resume,
    )
    if size is not None:
        size = check_size(size)
    root = dataset_root(repo_id, root)
    check_places(folder, root)
    with ExitStack() as stack:
        with writing(root):
            stack.enter_context(only_run(root, "root"))
        return _import(
            folder,
            repo_id,
            root,
            fps=fps,
            recorded_fps=recorded_fps,
            size=size,
            fit=fit,
            segments=segments,
            window_s=window_s,
            captions=captions,
            default_caption=default_caption,
            storage=storage,
            camera_key=camera_key,
            robot_type=robot_type,
            num_workers=num_workers,
            overwrite=overwrite,
            resume=resume,
        )


def _import(
    folder: Path,
    repo_id: str,
    root: Path,
    *,
    fps: int | None,
    recorded_fps: int | None,
    size: tuple[int, int] | None,
    fit: Literal["crop", "pad"],
    segments: str | Path | Iterable[Mapping[str, Any]] | None,
    window_s: float | None,
    captions: str | Path | Mapping[str, str] | None,
    default_caption: str,
    storage: Literal["video", "image"],
    camera_key: str,
    robot_type: str | None,
    num_workers: int,
    overwrite: bool,
    resume: bool,
) -> ImportResult:
    """Does what `import_video` says, once its arguments are known to be possible."""
    existing = open_existing(root, overwrite=overwrite, resume=resume)

    paths, ignored = find_clips(folder)
    tasks, unused_captions = match_captions(load_captions(captions), paths)
    listed = None if segments is None else load_segments(segments, paths)
    used = paths if listed is None else {segment.file: paths[segment.file] for segment in listed}
    clips, failures = probe_clips(used, num_workers=num_workers)
    if fps is None and recorded_fps is None:
        leave_out_variable_rates(clips, failures)
    if not clips:
        raise ValueError(_nothing_message(folder, failures))
    check_window(window_s, fps or max(clip.fps or 0 for clip in clips.values()))
    episodes, skipped = _plan_episodes(clips, failures, listed, window_s)
    height, width = common_size(clips.values()) if size is None else size
    settings = ImportSettings(
        fps=fps or recorded_fps or common_fps(clips.values()),
        height=height,
        width=width,
        fit=fit,
        storage=storage,
        camera_key=camera_key,
        robot_type=robot_type,
        resampled=fps is not None,
        window_s=window_s,
    )
    check_rate("fps", settings.fps, storage)
    check_settings(settings, existing.settings)
    _warn_of_repeated_frames(clips, fps)

    def read(episode: Segment) -> Iterator[np.ndarray]:
        frames = read_frames(
            paths[episode.file],
            start=episode.start,
            end=episode.end,
            fps=fps,
            constant_rate=fps is None and recorded_fps is None,
            num_threads=1 if num_workers > 1 else 0,  # the workers already share the processor
        )
        for image in frames:
            yield resize_frame(image, height=height, width=width, fit=fit)

    already = {*existing.clips, *(clip.name for clip in existing.staged)}
    pending = [episode for name, episode in episodes.items() if name not in already]
    staged = list(existing.staged)
    first_number = start_staging(root, settings, existing, overwrite=overwrite)
    decoded = decode_in_order(pending, read, num_workers=num_workers, frame_bytes=3 * height * width)
    try:
        with (
            closing(decoded),
            writing(root),
            tqdm(decoded, desc="Importing", unit="clip", total=len(pending)) as progress,
        ):
            for number, (episode, frames) in enumerate(progress, first_number):
                task = episode.caption or tasks.get(episode.file, default_caption)
                try:
                    clip = stage_clip(
                        repo_id, clip_folder(root, number), frames, settings, name=episode.name, task=task
                    )
                except UnreadableClipError as error:
                    failures[episode.name] = str(error)
                else:
                    staged.append(clip)
    except BaseException:
        if not existing.replaces:  # what is finished is a dataset already, which `resume` adds to
            _complete(repo_id, root, settings, existing, staged, failures)
        raise
    # In the order of the folder, whichever of them an import that was stopped had finished.
    order = {name: position for position, name in enumerate(episodes)}
    staged.sort(key=lambda clip: order.get(clip.name, -1))
    _complete(repo_id, root, settings, existing, staged, failures)
    if not existing.clips and not staged:
        raise ValueError(_nothing_message(folder, failures))

    if failures:
        logger.warning(
            "%d could not be imported (see also %s):%s", len(failures), root / ERRORS_PATH, _reasons(failures)
        )
    added = [clip.name for clip in staged]
    num_episodes, num_frames = _count(root)
    return ImportResult(
        root=root,
        settings=settings,
        imported=added,
        num_episodes=num_episodes,
        num_frames=num_frames,
        failures=failures,
        skipped=skipped,
        without_caption=[
            name
            for name in added
            if name in episodes and episodes[name].caption is None and episodes[name].file not in tasks
        ],
        unused_captions=unused_captions,
        without_segment=[] if listed is None else [name for name in paths if name not in used],
        ignored=ignored,
    )


def resize_frame(image: Image.Image, *, height: int, width: int, fit: Literal["crop", "pad"]) -> np.ndarray:
    """Resizes an RGB image with its aspect ratio kept, about its center.

    Args:
        image: The image.
        height: Height in pixels.
        width: Width in pixels.
        fit: "crop" cuts off what does not fit, "pad" adds black bars.

    Returns:
        (height, width, 3) uint8.
    """
    resize = ImageOps.fit if fit == "crop" else ImageOps.pad
    return np.asarray(resize(image, (width, height), method=Image.Resampling.BICUBIC))


def _complete(
    repo_id: str,
    root: Path,
    settings: ImportSettings,
    existing: Existing,
    staged: list[StagedClip],
    failures: Mapping[str, str],
) -> None:
    """Makes the dataset of the clips that are finished, and moves it to `root`."""
    from lerobot_lara.data.video.assemble import assemble

    with writing(root):
        if not staged:
            if existing.base is not None:
                _write_errors(existing.base, failures)
            discard_staging(root, MANIFEST_PATH)
            return
        new = new_folder(root)
        shutil.rmtree(new, ignore_errors=True)
        assemble(repo_id, new, staged, base=existing.base)
        _write_errors(new, failures)
        clips = existing.clips + [clip.name for clip in staged]
        write_json(new / MANIFEST_PATH, {"settings": asdict(settings), "clips": clips})
        move_into_place(root, MANIFEST_PATH)


def _count(root: Path) -> tuple[int, int]:
    """Episodes and frames of a dataset."""
    from lerobot.datasets.io_utils import load_info

    info = load_info(root)
    return info.total_episodes, info.total_frames


def _write_errors(folder: Path, failures: Mapping[str, str]) -> None:
    """Writes what was left out, or removes the file if nothing was."""
    if failures:
        write_json(folder / ERRORS_PATH, dict(failures))
    else:
        (folder / ERRORS_PATH).unlink(missing_ok=True)


def _plan_episodes(
    clips: Mapping[str, VideoClip],
    failures: dict[str, str],
    listed: list[Segment] | None,
    window_s: float | None,
) -> tuple[dict[str, Segment], dict[str, str]]:
    """{name: episode}, and {name: reason} of last windows that are too short; adds clips without any to `failures`."""
    skipped: dict[str, str] = {}
    if listed is not None:
        parts = fit_segments(listed, clips)
    elif window_s is not None:
        parts, skipped, too_short = window_segments(clips, window_s)
        failures.update(too_short)
    else:
        parts = [Segment(name) for name in clips]
    return {part.name: part for part in parts}, skipped


def _warn_of_repeated_frames(clips: Mapping[str, VideoClip], fps: int | None) -> None:
    """Warns of clips whose frames are repeated because they play at a lower rate."""
    slower = [name for name, clip in clips.items() if fps and clip.fps and clip.fps < 0.98 * fps]
    if slower:
        logger.warning(
            "`fps` is %d, but %d clip(s) have fewer frames per second, for example %s. Their frames are repeated, and "
            "there is no motion to learn between equal frames.",
            fps,
            len(slower),
            slower[0],
        )


def _nothing_message(folder: Path, failures: Mapping[str, str]) -> str:
    """The error for a folder without a readable clip."""
    return (
        f"{folder}: none of {len(failures)} clip(s) can be imported, so no dataset was written."
        f"{_reasons(failures)}"
    )


def _reasons(failures: Mapping[str, str]) -> str:
    """One line for each failure."""
    return "".join(f"\n  {name}: {reason}" for name, reason in failures.items())
