"""The LeRobotDataset that a video import writes: its settings, its manifest and its files on disk."""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from lerobot_lara.data.video.decode import UnreadableClipError

if TYPE_CHECKING:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

MANIFEST_PATH = Path("meta") / "import_video.json"
"""In the dataset's folder: the settings of the import and, for each episode, the clip that it came from."""
ERRORS_PATH = Path("meta") / "import_errors.json"
"""In the dataset's folder: {clip: reason} for what the last import left out; absent if it left out nothing."""
MIN_VIDEO_SIDE = 32
"""LeRobot's default video encoder, SVT-AV1, crashes on much smaller frames."""


@dataclass(frozen=True)
class ImportSettings:
    """What all episodes of a dataset have in common; see `import_video` for the fields.

    The last two may be absent from the manifest of an older dataset.
    """

    fps: int
    height: int
    width: int
    fit: Literal["crop", "pad"]
    storage: Literal["video", "image"]
    camera_key: str
    robot_type: str | None
    resampled: bool = False
    window_s: float | None = None


def dataset_root(repo_id: str, root: str | Path | None) -> Path:
    """Returns the folder of the dataset.

    Args:
        repo_id: Name of the dataset, "user/name".
        root: The folder; None is the dataset's folder in LeRobot's home.

    Raises:
        ValueError: The Hub would refuse the name.
    """
    from huggingface_hub.utils import validate_repo_id
    from lerobot.utils.constants import HF_LEROBOT_HOME

    validate_repo_id(repo_id)
    return HF_LEROBOT_HOME / repo_id if root is None else Path(root)


def open_existing(root: Path, *, overwrite: bool, resume: bool) -> tuple[list[str], ImportSettings | None]:
    """Looks for a dataset to which clips are to be added.

    Args:
        root: Folder of the dataset.
        overwrite: Whether a dataset may be replaced.
        resume: Whether clips may be added to a dataset.

    Returns:
        Names of the clips that it holds and its settings; `[]` and None if a new dataset is to be made.

    Raises:
        ValueError: What is at `root` must not be replaced, or cannot be added to.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return [], None
    if not overwrite and not resume:
        raise ValueError(f"{root} already exists. Choose another `root`, or set `overwrite` or `resume`.")
    if overwrite:
        if not (root / "meta" / "info.json").is_file():
            raise ValueError(
                f"{root} is not a LeRobotDataset, so it will not be overwritten. Choose another `root`."
            )
        return [], None
    try:
        manifest = json.loads((root / MANIFEST_PATH).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"{root} cannot be resumed: it has no {MANIFEST_PATH}, so it is not a video import, or one that was killed "
            "before it could close its files. Set `overwrite`, or choose another `root`."
        ) from error
    return manifest["clips"], ImportSettings(**manifest["settings"])


def check_settings(settings: ImportSettings, before: ImportSettings | None) -> None:
    """Checks the settings of an import.

    Args:
        settings: The settings.
        before: Settings of the dataset to which clips are added; None for a new one.

    Raises:
        ValueError: Frames are too small to be encoded, or the settings differ from those of the dataset.
    """
    if settings.storage == "video" and min(settings.height, settings.width) < MIN_VIDEO_SIDE:
        raise ValueError(
            f"`size` is {settings.height}x{settings.width} (height x width); it must be at least {MIN_VIDEO_SIDE} "
            "pixels per side for the video encoder. Choose a larger one, or `storage=image`."
        )
    if before is not None and settings != before:
        old = asdict(before)
        changes = [
            f"`{key}` was {old[key]!r} and is now {value!r}"
            for key, value in asdict(settings).items()
            if value != old[key]
        ]
        raise ValueError(
            f"`resume` is set, but the options would change the dataset: {'; '.join(changes)}. Repeat the options of "
            "the first import."
        )


def open_dataset(repo_id: str, root: Path, settings: ImportSettings, *, append: bool) -> "LeRobotDataset":
    """Creates the dataset, or with `append` opens it for more episodes."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    if append:
        dataset = LeRobotDataset.resume(repo_id, root=root, image_writer_threads=4)
        # Missing until the dataset is closed, so that an import that is killed can be recognized.
        (root / MANIFEST_PATH).unlink()
        return dataset
    if root.exists():
        root.rmdir()  # LeRobot must create it; `open_existing` has made sure that it is empty
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


def add_episode(
    dataset: "LeRobotDataset", frames: Iterable[np.ndarray], settings: ImportSettings, *, task: str
) -> None:
    """Adds one episode, or nothing if its frames cannot be read.

    Args:
        dataset: The dataset, open for writing.
        frames: Frames of the episode, each (height, width, 3) uint8 RGB.
        settings: Settings of the dataset.
        task: Instruction of the episode.

    Raises:
        UnreadableClipError: `frames` raised it, or there are fewer than two frames.
    """
    try:
        for frame in frames:
            dataset.add_frame({settings.camera_key: frame, "task": task})
        buffer = dataset.writer.episode_buffer
        if buffer is None or buffer["size"] < 2:
            raise UnreadableClipError(
                "a single frame: nothing moves" if buffer and buffer["size"] else "no frame in this time span"
            )
    except UnreadableClipError:
        dataset.clear_episode_buffer()
        raise
    dataset.save_episode()


def close_dataset(
    dataset: "LeRobotDataset", settings: ImportSettings, clips: Sequence[str], failures: Mapping[str, str]
) -> None:
    """Completes the files, so that even an interrupted import leaves a valid dataset that can be resumed.

    Args:
        dataset: The dataset, which is deleted if it has no clips.
        settings: Its settings.
        clips: Names of the clips that it holds.
        failures: Name -> reason of what was left out.
    """
    dataset.finalize()
    if not clips:
        shutil.rmtree(dataset.root)
        return
    shutil.rmtree(dataset.root / "images", ignore_errors=True)  # left by a clip that was interrupted
    if failures:
        _write_json(dataset.root / ERRORS_PATH, dict(failures))
    else:
        (dataset.root / ERRORS_PATH).unlink(missing_ok=True)
    _write_json(dataset.root / MANIFEST_PATH, {"settings": asdict(settings), "clips": clips})


@contextmanager
def replaced(root: Path, *, when: bool) -> Iterator[None]:
    """Moves the folder aside during the block; afterwards deletes it, or moves it back if the block failed."""
    if not when or not root.exists():
        yield
        return
    aside = root.with_name(f"{root.name}.replaced")
    if aside.exists():
        raise ValueError(
            f"{aside} exists: an import that was killed has moved the dataset there. Move it back to {root}, or delete "
            "it."
        )
    root.rename(aside)
    try:
        yield
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        aside.rename(root)
        raise
    shutil.rmtree(aside)


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    """Writes a JSON file."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
