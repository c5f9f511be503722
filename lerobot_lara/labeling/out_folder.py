"""The folder that labels are written into: what a run finds there, and what it may delete.

A folder is known to be one of labels by its plan or its manifest, and only files with the names that `lara label` gives
are ever deleted: a dataset of images has the folders `meta` and `data` too.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from lerobot_lara.data.latent_labels.manifest import CODEBOOK, ERRORS, MANIFEST, LabelManifest
from lerobot_lara.labeling.plan import PLAN, LabelPlan
from lerobot_lara.labeling.shards import shard_record

LOGS = Path("logs")
_PARTIAL = ".partial"
_OWN = re.compile(
    "|".join(
        [
            *(re.escape(file.as_posix()) for file in (MANIFEST, CODEBOOK, ERRORS, PLAN)),
            r"data/chunk-\d+/file-\d+\.parquet",
            rf"{LOGS}/.*",
        ]
    )
)


def prepare_folder(folder: Path, plan: LabelPlan, *, overwrite: bool) -> list[int] | None:
    """Makes a folder ready for a plan.

    Args:
        folder: The folder; it may be missing.
        plan: What is to be labeled.
        overwrite: Replace other labels.

    Returns:
        The shards that are left to label, or None if the labels are finished.

    Raises:
        ValueError: It holds other labels, or something else.
    """
    _require_labels(folder)
    planned, finished = (folder / PLAN).is_file(), (folder / MANIFEST).is_file()
    if (planned or finished) and not overwrite:
        if not _is_of(folder, plan):
            raise ValueError(
                f"`out` is {folder}, which holds other labels: of another model, dataset, camera or other options. "
                "Pass another folder, or --overwrite to replace them."
            )
        if finished and not planned:
            return None
    folder.mkdir(parents=True, exist_ok=True)
    # The plan comes first: a run that is stopped from here on is continued without `overwrite`.
    plan.write(folder)
    (folder / MANIFEST).unlink(missing_ok=True)
    needed = {plan.file(shard).as_posix() for shard in range(len(plan.shards))} if not overwrite else set()
    for name in list(_files(folder)):
        stale = overwrite or name.startswith("data/") or name == CODEBOOK.as_posix()
        if stale and name.removesuffix(_PARTIAL) not in {*needed, PLAN.as_posix()}:
            (folder / name).unlink(missing_ok=True)
    return [shard for shard in range(len(plan.shards)) if shard_record(folder, plan, shard) is None]


def _require_labels(folder: Path) -> None:
    """Makes sure that a folder is missing, empty or one of labels, and holds nothing else."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"`out` is the file {folder}; it must be a folder. Pass another one.")
    foreign = min(
        (name for name in _files(folder) if not _OWN.fullmatch(name.removesuffix(_PARTIAL))), default=""
    )
    if foreign:
        raise ValueError(
            f"`out` is {folder}, which holds {foreign} and is no folder of labels; it must be new, empty or one of an "
            "earlier run. Pass another one."
        )
    known = any((folder / file).is_file() for file in (PLAN, MANIFEST))
    # A run that is killed as it begins leaves the plan under its temporary name.
    if not known and any(path.suffix != _PARTIAL for path in folder.iterdir()):
        raise ValueError(
            f"`out` is {folder}, which holds something but neither {PLAN} nor {MANIFEST}, so that it is no folder of "
            "labels; it must be new, empty or one of an earlier run. Pass another one, or delete it."
        )


def _files(folder: Path) -> Iterator[str]:
    """Files in a folder and its subfolders, as names relative to it."""
    for path in folder.rglob("*"):
        if not path.is_dir():
            yield path.relative_to(folder).as_posix()


def _is_of(folder: Path, plan: LabelPlan) -> bool:
    """Whether labels are those of a plan.

    Labels that are not finished, or have errors, may be of other frames: videos that were repaired since then. Each of
    their files knows of which frames it is.
    """
    try:
        if (folder / PLAN).is_file():
            return LabelPlan.read(folder).digest == plan.digest
        manifest = LabelManifest.read(folder)
    except ValueError as error:
        raise ValueError(f"{error} Pass --overwrite to replace these labels.") from error
    return manifest.plan == plan.digest and manifest.dataset["files"] == plan.manifest.dataset["files"]
