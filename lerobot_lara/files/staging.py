"""A folder that is made beside its place, `<root>.partial`, and moved there by one rename once it is complete.

`<root>.partial` holds a record, which says which command made it, what the command has finished, and `dataset`, which
is to become `root`. What `root` has been before is renamed to `<root>.replaced`, and deleted last. At whichever step
the move is stopped, `finish_move` finishes it.
"""

import shutil
from pathlib import Path

from lerobot_lara.files.atomic import partial_path, sync_files, sync_folder, write_json

_DATASET, _COMPLETE = "dataset", "complete"


def staging_folder(root: Path) -> Path:
    """The folder of a run that has not ended."""
    return root.with_name(f"{root.name}.partial")


def new_folder(root: Path) -> Path:
    """What is moved to `root` once it is complete."""
    return staging_folder(root) / _DATASET


def replaced_folder(root: Path) -> Path:
    """Where the old folder is while the new one is moved to its place."""
    return root.with_name(f"{root.name}.replaced")


def move_into_place(root: Path, record: Path) -> None:
    """Lets the new folder replace the one at `root`, and deletes what is left of the run.

    Args:
        root: The place.
        record: File that marks a staging folder as the command's, relative to it; removed last.
    """
    sync_files(new_folder(root))
    write_json(staging_folder(root) / _COMPLETE, {})
    finish_move(root, record)


def finish_move(root: Path, record: Path) -> None:
    """Moves a folder that is complete to its place, at whichever step an earlier move was stopped."""
    new, aside = new_folder(root), replaced_folder(root)
    if not (staging_folder(root) / _COMPLETE).exists():
        return
    if new.exists():
        if root.exists():
            root.rename(aside)
        new.rename(root)
        sync_folder(root.parent)
    if aside.exists():
        shutil.rmtree(aside)
    discard_staging(root, record)


def check_replaced(root: Path) -> None:
    """Makes sure that no folder was moved aside that nobody knows of.

    Raises:
        ValueError: There is one; says how to go on.
    """
    if (aside := replaced_folder(root)).exists():
        raise ValueError(
            f"{aside} exists: a run that was killed has moved the dataset there. Move it back to {root}, or delete it."
        )


def is_foreign(root: Path, record: Path) -> bool:
    """Whether the staging folder is there, and holds more than what a run leaves before it has written its record."""
    staging = staging_folder(root)
    ours = {*(staging / record).parents, partial_path(staging / record)}
    return (
        staging.exists()
        and not (staging / record).exists()
        and any(path not in ours for path in staging.rglob("*"))
    )


def discard_staging(root: Path, record: Path) -> None:
    """Deletes what is left of a run; what says whose it is, and that it is complete, goes last."""
    staging = staging_folder(root)
    if not staging.exists():
        return
    for path in staging.iterdir():
        if path.name in (record.parts[0], _COMPLETE):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    (staging / record).unlink(missing_ok=True)
    shutil.rmtree(staging)
