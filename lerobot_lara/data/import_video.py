"""A folder of video clips becomes an action-free LeRobotDataset: one clip is one episode."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from lerobot_lara.data.video_clip import UnreadableClipError, read_frames
from lerobot_lara.data.video_folder import (
    common_fps,
    common_size,
    find_clips,
    load_captions,
    match_captions,
    probe_clips,
)

if TYPE_CHECKING:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

DEFAULT_CAMERA_KEY = "observation.images.front"
DEFAULT_CAPTION = "video without caption"
MANIFEST_PATH = Path("meta") / "import_video.json"
"""Inside the dataset: the settings of the import and, per episode, the clip it came from."""
MIN_VIDEO_SIDE = 32
"""LeRobot's default video encoder, SVT-AV1, crashes on much smaller frames."""


@dataclass(frozen=True)
class ImportSettings:
    """What every episode of one dataset has in common; `import_video` describes the fields."""

    fps: int
    height: int
    width: int
    fit: Literal["crop", "pad"]
    storage: Literal["video", "image"]
    camera_key: str
    robot_type: str | None


@dataclass(frozen=True)
class ImportResult:
    """What `import_video` did.

    Attributes:
        root: folder of the dataset.
        settings: frame rate, size and so on of the dataset.
        imported: clips that this call added, relative to the source folder, in the order of their episodes.
        num_episodes: episodes in the whole dataset, earlier ones included.
        num_frames: frames in the whole dataset.
        failures: file name -> reason, for clips that were left out.
        without_caption: imported clips that got the default caption.
        unused_captions: keys of the captions that name no clip.
        ignored: files of the source folder that are not video by their name.
    """

    root: Path
    settings: ImportSettings
    imported: list[str]
    num_episodes: int
    num_frames: int
    failures: dict[str, str]
    without_caption: list[str]
    unused_captions: list[str]
    ignored: list[str]


def import_video(
    folder: str | Path,
    repo_id: str,
    *,
    root: str | Path | None = None,
    fps: int | None = None,
    size: int | tuple[int, int] | None = None,
    fit: Literal["crop", "pad"] = "crop",
    captions: str | Path | Mapping[str, str] | None = None,
    default_caption: str = DEFAULT_CAPTION,
    storage: Literal["video", "image"] = "video",
    camera_key: str = DEFAULT_CAMERA_KEY,
    robot_type: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
) -> ImportResult:
    """Imports a folder of video clips as a LeRobotDataset v3 without actions and states.

    Every clip, in the order of its path, becomes one episode with the features `camera_key` and task. Frames
    are taken one by one, never dropped or repeated, turned upright where the file says that they are rotated,
    and resized with their aspect ratio kept. The statistics of the images are those that LeRobot computes. A
    clip that is broken, cut off, without picture or shorter than two frames is left out whole and reported.

    Args:
        folder: searched for clips, with its sub-folders.
        repo_id: name of the dataset, `user/name`.
        root: folder of the dataset, by default `$HF_LEROBOT_HOME/<repo_id>`.
        fps: rate in Hz at which the frames were *recorded*, by default the rate that the clips play at. Give
            it where clips do not play in real time: RT-1 was recorded at 3 Hz, its clips play at 30.
        size: height and width in pixels, one number for both; by default the common size of the clips.
        fit: `crop` cuts off what sticks out on both sides, `pad` adds black bars.
        captions: {clip: text}, or a JSON file with that. A clip is named by its path within `folder`, its
            file name, or its file name without the ending; the text becomes the task of its episode.
        default_caption: task of a clip without caption.
        storage: `video` (small) or `image` (lossless, quick to decode).
        camera_key: feature that holds the frames, `observation.image` or `observation.images.<name>`.
        robot_type: noted in the dataset's metadata.
        overwrite: replace the dataset at `root`; the old one is deleted once the new one is complete.
        resume: add the clips of `folder` that the dataset at `root` does not hold yet, if there is one.

    Raises:
        ValueError: for any argument that does not fit, an existing `root` without `overwrite` or `resume`, a
            folder without a readable clip, and clips that differ in a `fps` or `size` that is not given.
    """
    folder = Path(folder)
    _check_options(
        camera_key=camera_key,
        fit=fit,
        storage=storage,
        default_caption=default_caption,
        overwrite=overwrite,
        resume=resume,
    )
    root = _dataset_root(repo_id, root)
    _check_places(folder, root)
    imported, settings_before = _open_existing(root, overwrite=overwrite, resume=resume)

    paths, ignored = find_clips(folder)
    tasks, unused_captions = match_captions(load_captions(captions), paths)
    clips, failures = probe_clips(paths)
    if not clips:
        raise ValueError(_no_clip_message(folder, failures))
    height, width = common_size(clips.values()) if size is None else _check_size(size)
    settings = ImportSettings(
        fps=common_fps(clips.values()) if fps is None else _check_fps(fps),
        height=height,
        width=width,
        fit=fit,
        storage=storage,
        camera_key=camera_key,
        robot_type=robot_type,
    )
    _check_settings(settings, settings_before)

    pending = [name for name in clips if name not in imported]
    added: list[str] = []
    with _replaced(root, when=overwrite):
        dataset = _open_dataset(repo_id, root, settings, append=settings_before is not None)
        try:
            for name in tqdm(pending, desc="importing", unit="clip"):
                try:
                    _add_episode(dataset, paths[name], settings, task=tasks.get(name, default_caption))
                except UnreadableClipError as error:
                    failures[name] = str(error)
                else:
                    added.append(name)
        finally:
            _close_dataset(dataset, settings, imported + added)
        if not imported + added:
            raise ValueError(_no_clip_message(folder, failures))

    return ImportResult(
        root=root,
        settings=settings,
        imported=added,
        num_episodes=dataset.meta.total_episodes,
        num_frames=dataset.meta.total_frames,
        failures=failures,
        without_caption=[name for name in added if name not in tasks],
        unused_captions=unused_captions,
        ignored=ignored,
    )


def resize_frame(image: Image.Image, *, height: int, width: int, fit: Literal["crop", "pad"]) -> np.ndarray:
    """Resizes an RGB image with its aspect ratio kept, centred.

    Returns:
        The image, (height, width, 3), uint8.
    """
    resize = ImageOps.fit if fit == "crop" else ImageOps.pad
    return np.asarray(resize(image, (width, height), method=Image.Resampling.BICUBIC))


def _check_options(
    *, camera_key: str, fit: str, storage: str, default_caption: str, overwrite: bool, resume: bool
) -> None:
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
    if overwrite and resume:
        raise ValueError(
            "overwrite and resume are both set. Choose one: start anew, or add to what is there."
        )


def _check_fps(fps: int) -> int:
    if fps != int(fps) or fps < 1:
        raise ValueError(f"fps is {fps}. LeRobot stores a whole number of frames per second, at least 1.")
    return int(fps)


def _check_size(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"size is {height}x{width} (height x width). Give at least one pixel each.")
    return height, width


def _dataset_root(repo_id: str, root: str | Path | None) -> Path:
    from huggingface_hub.utils import validate_repo_id
    from lerobot.utils.constants import HF_LEROBOT_HOME

    validate_repo_id(repo_id)
    return HF_LEROBOT_HOME / repo_id if root is None else Path(root)


def _check_places(folder: Path, root: Path) -> None:
    if not folder.is_dir():
        raise ValueError(f"folder {folder} is not a directory. Give the one that holds the clips.")
    source, target = folder.resolve(), root.resolve()
    if source.is_relative_to(target) or target.is_relative_to(source):
        raise ValueError(
            f"root {root} and the clips' folder {folder} lie within each other: the dataset would mix with "
            "its source. Choose a root elsewhere."
        )


def _open_existing(root: Path, *, overwrite: bool, resume: bool) -> tuple[list[str], ImportSettings | None]:
    """Returns the clips and settings of the dataset to add to, `[]` and None when a new one is to be made."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return [], None
    if not overwrite and not resume:
        raise ValueError(f"root {root} exists. Choose another one, or say overwrite or resume.")
    if overwrite:
        if not (root / "meta" / "info.json").is_file():
            raise ValueError(
                f"root {root} is no LeRobotDataset, so overwrite leaves it alone. Choose another root."
            )
        return [], None
    try:
        manifest = json.loads((root / MANIFEST_PATH).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"root {root} cannot be resumed: it has no {MANIFEST_PATH}, so it is no video import, or one that "
            "was killed before it could close its files. Import with overwrite, or to another root."
        ) from error
    return manifest["clips"], ImportSettings(**manifest["settings"])


def _check_settings(settings: ImportSettings, before: ImportSettings | None) -> None:
    if settings.storage == "video" and min(settings.height, settings.width) < MIN_VIDEO_SIDE:
        raise ValueError(
            f"size is {settings.height}x{settings.width} (height x width), too small for the video encoder. "
            f"Give at least {MIN_VIDEO_SIDE} pixels per side, or storage=image."
        )
    if before is not None and settings != before:
        old = asdict(before)
        changes = [
            f"{key} {old[key]!r} -> {value!r}" for key, value in asdict(settings).items() if value != old[key]
        ]
        raise ValueError(
            f"resume would change the dataset: {', '.join(changes)}. Repeat the options of the first import."
        )


def _no_clip_message(folder: Path, failures: Mapping[str, str]) -> str:
    reasons = "".join(f"\n  {name}: {reason}" for name, reason in failures.items())
    return (
        f"folder {folder}: none of {len(failures)} clip(s) can be imported, no dataset was written.{reasons}"
    )


def _open_dataset(repo_id: str, root: Path, settings: ImportSettings, *, append: bool) -> "LeRobotDataset":
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    if append:
        dataset = LeRobotDataset.resume(repo_id, root=root, image_writer_threads=4)
        (root / MANIFEST_PATH).unlink()  # until it is closed, so that a killed import is known as such
        return dataset
    if root.exists():
        root.rmdir()  # LeRobot insists on making it; `_open_existing` has seen that it is empty
    frames = {
        "dtype": settings.storage,
        "shape": (settings.height, settings.width, 3),
        "names": ["height", "width", "channels"],
    }
    return LeRobotDataset.create(
        repo_id,
        fps=settings.fps,
        features={settings.camera_key: frames},
        root=root,
        robot_type=settings.robot_type,
        use_videos=settings.storage == "video",
        image_writer_threads=4,
    )


def _add_episode(dataset: "LeRobotDataset", path: Path, settings: ImportSettings, *, task: str) -> None:
    try:
        for image in read_frames(path):
            frame = resize_frame(image, height=settings.height, width=settings.width, fit=settings.fit)
            dataset.add_frame({settings.camera_key: frame, "task": task})
        if dataset.writer.episode_buffer["size"] < 2:
            raise UnreadableClipError("a single frame: nothing moves")
    except UnreadableClipError:
        dataset.clear_episode_buffer()
        raise
    dataset.save_episode()


def _close_dataset(dataset: "LeRobotDataset", settings: ImportSettings, clips: Sequence[str]) -> None:
    """Completes the files, so that an interrupted import too is a valid dataset that can be resumed."""
    dataset.finalize()
    if not clips:
        shutil.rmtree(dataset.root)
        return
    shutil.rmtree(dataset.root / "images", ignore_errors=True)  # of a clip that was interrupted
    manifest = json.dumps({"settings": asdict(settings), "clips": clips}, indent=2, ensure_ascii=False)
    (dataset.root / MANIFEST_PATH).write_text(manifest, encoding="utf-8")


@contextmanager
def _replaced(root: Path, *, when: bool) -> Iterator[None]:
    """Moves the folder aside within the block; afterwards deletes it, or puts it back if the block failed."""
    if not when or not root.exists():
        yield
        return
    aside = root.with_name(f"{root.name}.replaced")
    if aside.exists():
        raise ValueError(
            f"{aside} exists: an import that was killed had moved the dataset there. Move it back to {root}, "
            "or delete it."
        )
    root.rename(aside)
    try:
        yield
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        aside.rename(root)
        raise
    shutil.rmtree(aside)
