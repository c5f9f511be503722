"""Probes latent action models on a dataset and writes a report: `lara probe`."""

import logging
from pathlib import Path

import torch

from lerobot_lara.data.mixture.single import open_single
from lerobot_lara.evaluation.probe.checkpoint import Checkpoint, open_checkpoints
from lerobot_lara.evaluation.probe.data import read_pairs
from lerobot_lara.evaluation.probe.labeled import LabeledLatents
from lerobot_lara.evaluation.probe.measure import measure
from lerobot_lara.evaluation.probe.report import GENERATOR, PAGE, write_report
from lerobot_lara.files.atomic import partial_path
from lerobot_lara.files.lock import only_run
from lerobot_lara.files.user_path import user_path

logger = logging.getLogger(__name__)

OUTPUT_DIR = Path("outputs/probe")
MAX_PAIRS = 4000


def probe(
    checkpoints: list[str],
    *,
    dataset: str,
    out: str | Path | None = None,
    camera: str | None = None,
    device: str | None = None,
    max_pairs: int = MAX_PAIRS,
    seed: int = 0,
) -> Path:
    """Measures the latent action models of checkpoints on the same pairs and reports them side by side.

    Args:
        checkpoints: `lara_lam` or `lara` checkpoints, as folders or Hub ids; or folders of labels.
        dataset: A LeRobotDataset, as a folder or Hub id, with or without actions; ideally one that none of the models
            was trained on. For labels, the one that was labeled.
        out: Folder of the report; None selects outputs/probe/<name of the dataset>. An earlier report is replaced.
        camera: Key of the dataset's camera; None selects the one that the checkpoints were trained on.
        device: "cpu" or "cuda"; None selects CUDA if it is available.
        max_pairs: Upper bound on the number of frame pairs, which are spread evenly over the episodes.
        seed: Seed for all random choices.

    Returns:
        Path of the report's page.

    Raises:
        ValueError: If a checkpoint, the dataset or the camera is missing or does not fit, `out` holds other files, or
            another run is writing it.
    """
    folder = output_folder(out, dataset)
    device = _check_device(device)
    with only_run(folder, "out"):
        return _probe(
            checkpoints, folder, dataset=dataset, camera=camera, device=device, max_pairs=max_pairs, seed=seed
        )


def _probe(
    checkpoints: list[str],
    folder: Path,
    *,
    dataset: str,
    camera: str | None,
    device: str,
    max_pairs: int,
    seed: int,
) -> Path:
    opened = open_checkpoints(checkpoints, device=device)
    labels = [checkpoint.model for checkpoint in opened if isinstance(checkpoint.model, LabeledLatents)]
    for each in labels:
        each.check_dataset(open_single(dataset, camera=each.camera).meta, dataset, camera=camera)
    pairs = read_pairs(
        dataset,
        camera=camera or _common_camera(opened),
        frame_gap=opened[0].model.frame_gap,
        image_size=max(checkpoint.model.image_size for checkpoint in opened),
        max_pairs=max_pairs,
        seed=seed,
    )
    for each in labels:
        pairs = each.labeled(pairs)
    probed = []
    for checkpoint in opened:
        logger.info("Probing %s (%s) ...", checkpoint.label, checkpoint.type)
        probed.append((checkpoint, measure(checkpoint.model, pairs, seed=seed, device=device)))
    return write_report(folder, probed, pairs, dataset=dataset, seed=seed)


def output_folder(out: str | Path | None, dataset: str) -> Path:
    """Returns the folder of the report: `out`, or one named after the dataset.

    Raises:
        ValueError: If it is a file, or holds anything but a report of `lara probe`.
    """
    folder = OUTPUT_DIR / user_path(dataset).resolve().name if out is None else user_path(out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(
            f"`out` is the file {folder}; it must be a folder. Pass --out=<folder for the report>."
        )
    # A run that was killed at once may have left the page that it was writing.
    if folder.is_dir() and any(path != partial_path(folder / PAGE) for path in folder.iterdir()):
        page = folder / PAGE
        if not page.is_file() or GENERATOR.encode() not in page.read_bytes()[:2000]:
            raise ValueError(
                f"`out` is {folder}, which holds something other than a report of `lara probe`; it must be new, empty "
                "or an earlier report. Pass another folder as --out."
            )
    return folder


def _check_device(device: str | None) -> str:
    available = torch.cuda.is_available()
    if device is None:
        return "cuda" if available else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ValueError(
            f"`device` is {device!r}; it must be a device of torch. Pass --device=cpu or --device=cuda."
        ) from error
    if kind == "cuda" and not available:
        raise ValueError(
            f"`device` is {device!r}; it must be available, but torch finds no CUDA device. Pass --device=cpu."
        )
    return device


def _common_camera(checkpoints: list[Checkpoint]) -> str | None:
    cameras = {checkpoint.label: checkpoint.camera for checkpoint in checkpoints if checkpoint.camera}
    if len(set(cameras.values())) > 1:
        raise ValueError(
            f"`camera` is not given, and the checkpoints were trained on different cameras, {cameras}; it must be the "
            "same for all. Pass a camera of the dataset as --camera."
        )
    return next(iter(cameras.values()), None)
