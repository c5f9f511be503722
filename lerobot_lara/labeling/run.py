"""Labels a dataset, or each dataset of a mixture, with the latent actions of a latent action model: `lara label`."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lerobot_lara.cluster.executors import ClusterOptions
from lerobot_lara.data.latent_labels.labels import LatentLabels
from lerobot_lara.data.latent_labels.manifest import MANIFEST, LabelManifest
from lerobot_lara.data.mixture.config import MixtureConfig, is_mixture, load_mixture, require_roots
from lerobot_lara.data.mixture.single import open_single
from lerobot_lara.data.mixture.sources import Source, open_sources
from lerobot_lara.data.video.dataset import dataset_root
from lerobot_lara.files.lock import only_run
from lerobot_lara.files.user_path import user_path
from lerobot_lara.labeling.dataset_copy import copy_dataset, label_columns
from lerobot_lara.labeling.executors import label_here, label_on_cluster
from lerobot_lara.labeling.finish import finish_labels
from lerobot_lara.labeling.out_folder import LOGS, prepare_folder
from lerobot_lara.labeling.plan import LabelOptions, LabelPlan, make_plan, open_lam

logger = logging.getLogger(__name__)


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
        camera: Camera of the dataset, or, with a mixture file, of the policy; None takes the one that the LAM was
            trained on, or the policy's first.
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
    # All plans come first: what is wrong with the last dataset is said before the first is labeled.
    plans = list(_plans(lam_path, dataset, options, camera))
    if not plans:
        raise ValueError(
            f"No dataset of {dataset} has a camera that is the policy's. Map the `cameras` of its entries."
        )
    for name, source, plan in plans:
        target = folder / name if name else folder
        with only_run(target, "out"):
            shards = prepare_folder(target, plan, overwrite=overwrite)
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
                options=cluster or ClusterOptions(),
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
    mixture = load_mixture(dataset)
    require_roots(mixture, dataset)
    sources = open_sources(mixture, use_actions=False)
    reference = next(source for source in sources if source.config is mixture.reference_entry)
    seen = _policy_camera(mixture, reference, camera, dataset)
    size = mixture.image_size or reference.camera_shape(
        seen if seen in reference.cameras else next(iter(reference.cameras))
    )
    policy_gap = open_lam(lam_path).load().frame_gap
    for source in sources:
        if seen not in source.cameras:
            logger.warning("%s lacks the camera %s and is not labeled.", source.name, seen)
            continue
        plan = make_plan(
            lam_path,
            source,
            options,
            camera=source.cameras[seen],
            frame_gap=source.frame_gap(mixture, policy_gap),
            frame_size=(size[0], size[1]),
        )
        yield _folder_name(source), source, plan


def _policy_camera(mixture: MixtureConfig, reference: Source, camera: str | None, path: str) -> str:
    """The camera of the policy whose frames are labeled: the one that is named, or the policy's first."""
    known = list(mixture.cameras or reference.cameras)
    if camera is not None and camera not in known:
        raise ValueError(
            f"`camera` is {camera!r}; with the mixture file {path} it must be one of {known}, the policy's cameras. "
            "Pass --camera."
        )
    return camera or known[0]


def _folder_name(source: Source) -> str:
    """The name of an entry, as that of the folder of its labels."""
    parts = Path(source.name).parts
    if not parts or ".." in parts or Path(source.name).is_absolute():
        raise ValueError(
            f"`name` of an entry is {source.name!r}; it must be one for the folder of its labels. Rename the entry."
        )
    return source.name


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
