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

from lerobot_lara.data.video.dataset import (
    MANIFEST_PATH,
    ImportSettings,
    read_manifest,
    sync_files,
    sync_folder,
    write_json,
)
from lerobot_lara.data.video.stage_clip import CLIP_PATH, StagedClip

_CLIPS, _DATASET, _COMPLETE = "clips", "dataset", "complete"


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
        finish_move(root)
        occupied = root.exists() and not (root.is_dir() and not any(root.iterdir()))
    aside, staging = _aside(root), staging_folder(root)
    if occupied and not overwrite and not resume:
        raise ValueError(f"{root} already exists. Choose another `root`, or set `overwrite` or `resume`.")
    if aside.exists():
        raise ValueError(
            f"{aside} exists: an import that was killed has moved the dataset there. Move it back to {root}, or delete "
            "it."
        )
    stopped = (staging / MANIFEST_PATH).exists()
    if staging.exists() and not stopped and _holds_more(staging):
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
        if settings is not None and settings != found:
            raise ValueError(
                f"{staging} holds an import with other settings than those of {root}. Delete it, or set `overwrite`."
            )
        base, clips, settings = root, list(manifest.get("clips", [])), found
    held = set(clips)
    return Existing(
        base, occupied and replaces, clips, [clip for clip in staged if clip.name not in held], settings
    )


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
            # What an earlier import has finished goes; the manifest last, as it is what makes the folder ours.
            shutil.rmtree(staging / _CLIPS, ignore_errors=True)
            shutil.rmtree(staging, ignore_errors=True)
        (staging / MANIFEST_PATH).parent.mkdir(parents=True, exist_ok=True)
        if not (staging / MANIFEST_PATH).exists():
            write_json(staging / MANIFEST_PATH, {"settings": asdict(settings), "overwrite": overwrite})
        (staging / _CLIPS).mkdir(exist_ok=True)
        shutil.rmtree(staging / _DATASET, ignore_errors=True)
        finished = {clip.folder for clip in existing.staged}
        for folder in (staging / _CLIPS).iterdir():
            if folder not in finished:
                shutil.rmtree(folder)
    return max((int(folder.name) for folder in finished), default=-1) + 1


def move_into_place(root: Path) -> None:
    """Lets the dataset that was made of the clips replace the one at `root`."""
    staging = staging_folder(root)
    sync_files(staging / _DATASET)
    write_json(staging / _COMPLETE, {})
    finish_move(root)


def finish_move(root: Path) -> None:
    """Moves a dataset that is complete to its place, at whichever step an earlier move was stopped."""
    staging, aside = staging_folder(root), _aside(root)
    if not (staging / _COMPLETE).exists():
        return
    if (staging / _DATASET).exists():
        if root.exists():
            root.rename(aside)
        (staging / _DATASET).rename(root)
        sync_folder(root.parent)
    if aside.exists():
        shutil.rmtree(aside)
    discard_staging(root)


def discard_staging(root: Path) -> None:
    """Deletes the clips that were finished; what marks the folder as complete goes last."""
    staging = staging_folder(root)
    shutil.rmtree(staging / _CLIPS, ignore_errors=True)
    shutil.rmtree(staging / _DATASET, ignore_errors=True)
    (staging / MANIFEST_PATH).unlink(missing_ok=True)
    shutil.rmtree(staging, ignore_errors=True)


def staging_folder(root: Path) -> Path:
    """The folder of an import that has not ended."""
    return root.with_name(f"{root.name}.partial")


def clip_folder(root: Path, number: int) -> Path:
    """The folder of a clip that is finished."""
    return staging_folder(root) / _CLIPS / f"{number:07d}"


def new_dataset_folder(root: Path) -> Path:
    """The folder in which the dataset is made before it is moved to `root`."""
    return staging_folder(root) / _DATASET


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


def _aside(root: Path) -> Path:
    """Where the old dataset is while the new one is moved to its place."""
    return root.with_name(f"{root.name}.replaced")


def _holds_more(staging: Path) -> bool:
    """Whether a folder without a manifest holds anything but what an import leaves before it writes one."""
    partial = staging / MANIFEST_PATH.with_name(f"{MANIFEST_PATH.name}.partial")
    return any(path not in (staging / "meta", partial) for path in staging.rglob("*"))


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
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{folder / CLIP_PATH} is not the record of a clip ({error}). Delete {folder}; the clip is then "
                "imported again."
            ) from error
    return clips
