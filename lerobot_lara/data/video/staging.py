"""Keeps each clip of an import as soon as it is finished, so that an import can be killed at any moment.

Until a dataset is complete, everything is written beside its folder, to `<root>.partial`:

- `meta/import_video.json`: the settings, written before anything else;
- `clips/0000000`, ...: one LeRobotDataset of a single episode for each clip, which gets its name when it is complete;
- `dataset`: the dataset made of them, which replaces the one at `root` once `complete` is written.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from lerobot_lara.data.video.dataset import MANIFEST_PATH, ImportSettings, read_manifest
from lerobot_lara.data.video.stage_clip import CLIP_PATH, StagedClip
from lerobot_lara.files.atomic import write_json
from lerobot_lara.files.staging import (
    check_replaced,
    discard_staging,
    finish_move,
    is_foreign,
    new_folder,
    staging_folder,
)

_CLIPS = "clips"


@dataclass(frozen=True)
class Existing:
    """What an import begins with.

    Attributes:
        base: Folder of the dataset to which clips are added; None if a new one is made.
        replaces: Whether there is a dataset that the new one replaces once all clips are imported.
        clips: Names of the clips in `base`.
        staged: Clips that an earlier import has finished, in the order in which it did.
        settings: Settings of `base` and of `staged`; None if there is neither.
    """

    base: Path | None
    replaces: bool
    clips: list[str]
    staged: list[StagedClip]
    settings: ImportSettings | None


def open_existing(root: Path, *, overwrite: bool, resume: bool) -> Existing:
    """Looks for a dataset to which clips are to be added, and for an import that was stopped.

    Args:
        root: Folder of the dataset.
        overwrite: Whether a dataset may be replaced, and a stopped import discarded.
        resume: Whether clips may be added to a dataset, and a stopped import continued.

    Raises:
        ValueError: What is at `root` must not be replaced, or cannot be added to.
    """
    with writing(root):
        finish_move(root, MANIFEST_PATH)
        occupied = root.exists() and not (root.is_dir() and not any(root.iterdir()))
    staging = staging_folder(root)
    if occupied and not overwrite and not resume:
        raise ValueError(f"{root} already exists. Choose another `root`, or set `overwrite` or `resume`.")
    check_replaced(root)
    stopped = (staging / MANIFEST_PATH).exists()
    if is_foreign(root, MANIFEST_PATH):
        raise ValueError(
            f"{staging} exists, and no video import has written it. Move it away, as the import needs this place."
        )
    if overwrite:
        if occupied and not (root / "meta" / "info.json").is_file():
            raise ValueError(
                f"{root} is not a LeRobotDataset, so it will not be overwritten. Choose another `root`."
            )
        return Existing(None, occupied, [], [], None)
    if stopped and not resume:
        raise ValueError(
            f"{staging} holds an import that was stopped. Set `resume` to continue it, or `overwrite` to start over."
        )
    return _open_for_resume(root, staging if stopped else None, occupied=occupied)


def _open_for_resume(root: Path, staging: Path | None, *, occupied: bool) -> Existing:
    """What is at `root`, if it is a dataset, and in `staging`, if an import was stopped."""
    base, clips, settings, staged = None, [], None, []
    replaces = False
    if staging is not None:
        settings, content = read_manifest(staging / MANIFEST_PATH)
        staged = _staged_clips(staging)
        replaces = content.get("overwrite") is True
    if occupied and not replaces:
        try:
            found, manifest = read_manifest(root / MANIFEST_PATH)
        except OSError as error:
            raise ValueError(
                f"{root} cannot be resumed: it has no {MANIFEST_PATH}, so it is not a video import. Set `overwrite`, "
                "or choose another `root`."
            ) from error
        if not (root / "meta" / "info.json").is_file():
            raise ValueError(
                f"{root} cannot be resumed: it has no meta/info.json. Set `overwrite` to start over."
            )
        _check_dataset(root)
        if settings is not None and settings != found:
            raise ValueError(
                f"{staging} holds an import with other settings than those of {root}. Delete it, or set `overwrite`."
            )
        base, clips, settings = root, list(manifest.get("clips", [])), found
    held = set(clips)
    return Existing(
        base, occupied and replaces, clips, [clip for clip in staged if clip.name not in held], settings
    )


def _check_dataset(root: Path) -> None:
    """Checks the metadata of the dataset to which clips are added, before the first of them is decoded."""
    from lerobot_lara.data.metadata import check_metadata

    try:
        check_metadata(root, root.name)
    except FileNotFoundError as error:
        raise ValueError(
            f"{root} cannot be resumed: {error.filename} is missing. Set `overwrite` to start over."
        ) from error


def start_staging(root: Path, settings: ImportSettings, existing: Existing, *, overwrite: bool) -> int:
    """Makes the place for finished clips, or cleans that of the stopped import which is continued.

    Returns:
        The first number for a clip.

    Raises:
        ValueError: It cannot be written.
    """
    staging = staging_folder(root)
    with writing(root):
        if overwrite:
            discard_staging(root, MANIFEST_PATH)  # what an earlier import has finished
        if not (staging / MANIFEST_PATH).exists():
            write_json(staging / MANIFEST_PATH, {"settings": asdict(settings), "overwrite": overwrite})
        (staging / _CLIPS).mkdir(exist_ok=True)
        shutil.rmtree(new_folder(root), ignore_errors=True)
        finished = {clip.folder for clip in existing.staged}
        for folder in (staging / _CLIPS).iterdir():
            if folder not in finished:
                shutil.rmtree(folder)
    return max((int(folder.name) for folder in finished), default=-1) + 1


def clip_folder(root: Path, number: int) -> Path:
    """The folder of a clip that is finished."""
    return staging_folder(root) / _CLIPS / f"{number:07d}"


@contextmanager
def writing(root: Path) -> Iterator[None]:
    """Turns errors of the file system into one that says what to do.

    Raises:
        ValueError: Something cannot be read or written.
    """
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"{error.filename or root} cannot be written: {error.strerror or error}. Make sure that there is space "
            f"and that the folder may be written, and set `resume` to continue; or choose another `root`."
        ) from error


def _staged_clips(staging: Path) -> list[StagedClip]:
    """The finished clips, by their numbers.

    Raises:
        ValueError: A record is not one.
    """
    clips = []
    folders = (staging / _CLIPS).iterdir() if (staging / _CLIPS).is_dir() else []
    for folder in sorted(folder for folder in folders if folder.name.isdecimal()):
        try:
            record = json.loads((folder / CLIP_PATH).read_bytes())
            clips.append(StagedClip(str(record["name"]), str(record["task"]), int(record["length"]), folder))
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(
                f"{folder / CLIP_PATH} is not the record of a clip ({error}). Delete {folder}; the clip is then "
                "imported again."
            ) from error
    return clips
