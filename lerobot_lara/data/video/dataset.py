"""The LeRobotDataset that a video import writes: its settings, its manifest, and its files on disk."""

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
"""Inside the dataset: the settings of the import and, per episode, the clip it came from."""
ERRORS_PATH = Path("meta") / "import_errors.json"
"""Inside the dataset: {clip: reason} for what the last import left out, absent if that was nothing."""
MIN_VIDEO_SIDE = 32
"""LeRobot's default video encoder, SVT-AV1, crashes on much smaller frames."""


@dataclass(frozen=True)
class ImportSettings:
    """What every episode of one dataset has in common; `import_video` describes the fields.

    The last two are absent from manifests that were written before they existed.
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
    """Returns the folder of the dataset; raises a ValueError for a `repo_id` that the Hub would not take."""
    from huggingface_hub.utils import validate_repo_id
    from lerobot.utils.constants import HF_LEROBOT_HOME

    validate_repo_id(repo_id)
    return HF_LEROBOT_HOME / repo_id if root is None else Path(root)


def open_existing(root: Path, *, overwrite: bool, resume: bool) -> tuple[list[str], ImportSettings | None]:
    """Returns the clips and settings of the dataset to add to, `[]` and None when a new one is to be made.

    Raises:
        ValueError: if what is at `root` is to be kept, or cannot be added to.
    """
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


def check_settings(settings: ImportSettings, before: ImportSettings | None) -> None:
    """Raises a ValueError if frames are too small to encode, or settings differ from the dataset's own."""
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


def open_dataset(repo_id: str, root: Path, settings: ImportSettings, *, append: bool) -> "LeRobotDataset":
    """Makes the dataset, or opens it for more episodes."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    if append:
        dataset = LeRobotDataset.resume(repo_id, root=root, image_writer_threads=4)
        (root / MANIFEST_PATH).unlink()  # until it is closed, so that a killed import is known as such
        return dataset
    if root.exists():
        root.rmdir()  # LeRobot insists on making it; `open_existing` has seen that it is empty
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
        dataset: open for writing.
        frames: (height, width, 3) each, uint8 RGB.
        settings: of the dataset.
        task: of the episode.

    Raises:
        UnreadableClipError: what `frames` raises, and for fewer than two of them.
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
    """Completes the files, so that an interrupted import too is a valid dataset that can be resumed."""
    dataset.finalize()
    if not clips:
        shutil.rmtree(dataset.root)
        return
    shutil.rmtree(dataset.root / "images", ignore_errors=True)  # of a clip that was interrupted
    if failures:
        _write_json(dataset.root / ERRORS_PATH, dict(failures))
    else:
        (dataset.root / ERRORS_PATH).unlink(missing_ok=True)
    _write_json(dataset.root / MANIFEST_PATH, {"settings": asdict(settings), "clips": clips})


@contextmanager
def replaced(root: Path, *, when: bool) -> Iterator[None]:
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


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
