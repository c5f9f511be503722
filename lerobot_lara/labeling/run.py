"""Labels a dataset, or each dataset of a mixture, with the latent actions of a latent action model: `lara label`."""

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lerobot_lara.data.latent_labels.labels import LatentLabels
from lerobot_lara.data.latent_labels.manifest import ERRORS, MANIFEST, LabelManifest
from lerobot_lara.data.mixture.config import is_mixture, load_mixture, require_roots
from lerobot_lara.data.mixture.single import open_single
from lerobot_lara.data.mixture.sources import Source, open_sources
from lerobot_lara.data.video.dataset import dataset_root
from lerobot_lara.files.lock import only_run
from lerobot_lara.files.user_path import user_path
from lerobot_lara.labeling.dataset_copy import copy_dataset, label_columns
from lerobot_lara.labeling.executors import ClusterOptions, label_here, label_on_cluster
from lerobot_lara.labeling.finish import finish_labels
from lerobot_lara.labeling.plan import PLAN, LabelOptions, LabelPlan, make_plan
from lerobot_lara.labeling.shards import shard_record

logger = logging.getLogger(__name__)

LOGS = "logs"
# What a folder of labels may hold.
OWN = {MANIFEST.parts[0], "data", str(ERRORS), str(PLAN), f"{PLAN}.partial", LOGS}


@dataclass(frozen=True)
class LabelResult:
    """What has come of labeling one dataset.

    Args:
        folder: Folder of the labels.
        manifest: Their manifest; None while tasks of a cluster are at work.
    """

    folder: Path
    manifest: LabelManifest | None


@dataclass(frozen=True)
class CopyOptions:
    """A copy of the dataset with the labels as columns.

    Args:
        repo_id: Name of the copy, "user/name".
        root: Its folder; None is that of LeRobot's home.
        decoder: Folder of a decoder that gives it pseudo-actions; None for none.
    """

    repo_id: str
    root: str | None = None
    decoder: str | None = None

    @property
    def folder(self) -> Path:
        """The folder of the copy."""
        return dataset_root(self.repo_id, None if self.root is None else user_path(self.root)).resolve()


def label(
    lam_path: str,
    dataset: str,
    out: str | Path,
    *,
    camera: str | None = None,
    options: LabelOptions | None = None,
    executor: str = "local",
    workers: int = 1,
    cluster: ClusterOptions | None = None,
    overwrite: bool = False,
    copy: CopyOptions | None = None,
) -> list[LabelResult]:
    """Labels datasets; a run that was stopped goes on where it was.

    Args:
        lam_path: Folder or Hub id of a checkpoint with a latent action model (LAM).
        dataset: Folder or Hub id of a LeRobotDataset, or a mixture file.
        out: Folder of the labels; those of a mixture go into a folder for each entry, by its name.
        camera: Camera of the dataset; None takes the one that the LAM was trained on.
        options: How labels are made.
        executor: "local", or "slurm" or "ray" for tasks of datatrove.
        workers: Processes on this machine.
        cluster: How tasks of Slurm or Ray are started.
        overwrite: Replace other labels in `out`.
        copy: Also write a copy of the dataset with the labels as columns; None for none.

    Returns:
        What has come of each dataset.

    Raises:
        ValueError: The LAM or the dataset is missing or does not fit, or `out` holds something else.
    """
    options, folder = options or LabelOptions(), user_path(out).resolve()
    if copy is not None:
        _check_copy(copy, dataset, executor)
    results = []
    for name, source, plan in _plans(lam_path, dataset, options, camera):
        target = folder / name if name else folder
        with only_run(target, "out"):
            shards = _prepare(target, plan, overwrite=overwrite)
            if shards is None:
                logger.info("%s is labeled already: %s holds its labels.", source.name, target)
                results.append(LabelResult(target, LabelManifest.read(target)))
                _copy(copy, lam_path, source, target, options)
                continue
            _announce(source, plan, shards)
            if executor == "local":
                frames = sum(_frames(plan, shard) for shard in shards)
                label_here(target, shards, total_frames=frames, workers=workers)
                results.append(LabelResult(target, finish_labels(target)))
                _copy(copy, lam_path, source, target, options)
                continue
            label_on_cluster(
                executor,
                target,
                shards=len(plan.shards),
                options=cluster or ClusterOptions(tasks=len(plan.shards)),
                logs=target / LOGS,
            )
            finished = (target / MANIFEST).is_file()
            results.append(LabelResult(target, LabelManifest.read(target) if finished else None))
    return results


def _check_copy(copy: CopyOptions, dataset: str, executor: str) -> None:
    if is_mixture(dataset):
        raise ValueError(
            f"`as_dataset` is {copy.repo_id!r}, but {dataset} is a mixture file; it must be a single dataset. Copy the "
            "datasets of the mixture one by one."
        )
    if executor != "local":
        raise ValueError(
            f"`as_dataset` is {copy.repo_id!r}, but `executor` is {executor!r}, whose tasks end later. Run the same "
            "command with --executor=local once they have."
        )
    if copy.folder.exists():
        raise ValueError(f"{copy.folder} exists already. Choose another name or --root, or delete it.")


def _copy(
    copy: CopyOptions | None, lam_path: str, source: Source, labels_folder: Path, options: LabelOptions
) -> None:
    """Writes the copy of the dataset, if one is asked for."""
    if copy is None:
        return
    labels = LatentLabels(labels_folder)
    columns = label_columns(labels)
    names: dict[str, Any] = {}
    if copy.decoder is not None:
        from lerobot_lara.labeling.pseudo_actions import pseudo_columns

        added, names = pseudo_columns(lam_path, source, labels, copy.decoder, device=options.device)
        columns |= added
    copy_dataset(source, labels, columns, names, repo_id=copy.repo_id, root=copy.folder)


def _plans(
    lam_path: str, dataset: str, options: LabelOptions, camera: str | None
) -> Iterator[tuple[str | None, Source, LabelPlan]]:
    """The plan of each dataset, and the name of its folder within `out`."""
    if not is_mixture(dataset):
        source = open_single(dataset, camera=None)
        yield None, source, make_plan(lam_path, source, options, camera=camera)
        return
    if camera is not None:
        raise ValueError(
            f"`camera` is {camera!r}; it must not be given for a mixture file, whose entries map their `cameras`. "
            "Leave --camera out."
        )
    mixture = load_mixture(dataset)
    require_roots(mixture, dataset)
    sources = open_sources(mixture, use_actions=False)
    reference = next(source for source in sources if source.config is mixture.reference_entry)
    seen = next(iter(mixture.cameras or reference.cameras))
    for source in sources:
        if seen not in source.cameras:
            logger.warning("%s lacks the camera %s and is not labeled.", source.name, seen)
            continue
        from lerobot_lara.alignment.checkpoint_lam import find_lam

        gap = source.frame_gap(mixture, find_lam(lam_path).load().frame_gap)
        size = mixture.image_size or reference.camera_shape(seen)
        plan = make_plan(
            lam_path,
            source,
            options,
            camera=source.cameras[seen],
            frame_gap=gap,
            frame_size=(size[0], size[1]),
        )
        yield source.name, source, plan


def _prepare(folder: Path, plan: LabelPlan, *, overwrite: bool) -> list[int] | None:
    """Makes the folder ready for a plan; returns the shards that are left to label, or None if it is finished.

    Raises:
        ValueError: It holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`out` is the file {folder}; it must be a folder. Pass another one.")
    present = {path.name for path in folder.iterdir()} if folder.exists() else set()
    foreign = sorted(present - OWN)
    if foreign:
        raise ValueError(
            f"`out` is {folder}, which holds {foreign[0]} and is no folder of labels; it must be new, empty or one of "
            "an earlier run. Pass another one."
        )
    digest = _digest_in(folder)
    if overwrite or (present and digest is None):
        # Nothing of ours is lost: without plan and manifest there are no labels.
        if present and digest is None and not overwrite:
            raise ValueError(
                f"`out` is {folder}, which holds files but neither {PLAN} nor {MANIFEST}. Pass --overwrite to replace "
                "them, or another folder."
            )
        for name in present - {MANIFEST.parts[0]}:
            _remove(folder / name)
        _remove(folder / MANIFEST.parts[0])
        digest = None
    if digest not in (None, plan.digest):
        raise ValueError(
            f"`out` is {folder}, which holds other labels: of another model, dataset, camera or other options. Pass "
            "another folder, or --overwrite to replace them."
        )
    if (folder / MANIFEST).is_file():
        if not (folder / PLAN).is_file():
            return None
        (folder / MANIFEST).unlink()  # episodes that could not be read are tried again
    folder.mkdir(parents=True, exist_ok=True)
    plan.write(folder)
    return [shard for shard in range(len(plan.shards)) if shard_record(folder, plan, shard) is None]


def _digest_in(folder: Path) -> str | None:
    """Fingerprint of the plan that a folder's labels are of; None without labels."""
    if (folder / PLAN).is_file():
        return LabelPlan.read(folder).digest
    if (folder / MANIFEST).is_file():
        return LabelManifest.read(folder).plan
    return None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _announce(source: Source, plan: LabelPlan, shards: list[int]) -> None:
    done = len(plan.shards) - len(shards)
    logger.info(
        "Labeling %s: %d episodes, camera %s, frame gap %d (%.2f s), into %d file(s)%s.",
        source.name,
        len(plan.episodes),
        plan.manifest.camera,
        plan.manifest.frame_gap,
        plan.manifest.frame_gap_s,
        len(plan.shards),
        f", of which {done} are there" if done else "",
    )


def _frames(plan: LabelPlan, shard: int) -> int:
    first, last = plan.shards[shard]
    lengths = plan.manifest.dataset["episode_lengths"]
    return sum(lengths[episode] for episode in plan.episodes[first:last])
