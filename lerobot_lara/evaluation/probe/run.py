"""Probes latent action models on a dataset and writes the report: `lara probe`."""

import logging
from pathlib import Path

import torch

from lerobot_lara.evaluation.probe.data import read_pairs
from lerobot_lara.evaluation.probe.measure import measure
from lerobot_lara.evaluation.probe.model import Checkpoint, open_checkpoints
from lerobot_lara.evaluation.probe.report import GENERATOR, PAGE, write_report

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
    """Measures the latent action models of checkpoints, side by side on the same pairs.

    Args:
        checkpoints: `lara_lam` or `lara` checkpoints, folders or Hub ids.
        dataset: A LeRobotDataset, folder or Hub id, with or without actions; best one that none was trained on.
        out: Folder of the report; None is outputs/probe/<name of the dataset>. An earlier report is replaced.
        camera: Of the dataset; None is the one that the checkpoints were trained on.
        device: "cpu" or "cuda"; None is CUDA where there is some.
        max_pairs: Upper bound of frame pairs, spread evenly over the episodes.
        seed: Of everything random.

    Returns:
        Path of the page.

    Raises:
        ValueError: A checkpoint, the dataset or the camera is missing or does not fit, or `out` holds other files.
    """
    folder = output_folder(out, dataset)
    device = _check_device(device)
    opened = open_checkpoints(checkpoints, device=device)
    pairs = read_pairs(
        dataset,
        camera=camera or _common_camera(opened),
        frame_gap=opened[0].model.frame_gap,
        image_size=max(checkpoint.model.image_size for checkpoint in opened),
        max_pairs=max_pairs,
        seed=seed,
    )
    probed = []
    for checkpoint in opened:
        logger.info("Probing %s (%s) ...", checkpoint.label, checkpoint.type)
        probed.append((checkpoint, measure(checkpoint.model, pairs, seed=seed, device=device)))
    return write_report(folder, probed, pairs, dataset=dataset, seed=seed)


def output_folder(out: str | Path | None, dataset: str) -> Path:
    """Folder of the report: `out`, or one named after the dataset.

    Raises:
        ValueError: It is a file, or holds anything but a report of `lara probe`.
    """
    folder = OUTPUT_DIR / Path(dataset).expanduser().resolve().name if out is None else Path(out).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file; name a folder for the report.")
    if folder.is_dir() and any(folder.iterdir()):
        page = folder / PAGE
        if not page.is_file() or GENERATOR.encode() not in page.read_bytes()[:2000]:
            raise ValueError(
                f"--out {folder} exists and holds no report of `lara probe`; choose another folder."
            )
    return folder


def _check_device(device: str | None) -> str:
    available = torch.cuda.is_available()
    if device is None:
        return "cuda" if available else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ValueError(f"--device {device!r} is none that torch knows.") from error
    if kind == "cuda" and not available:
        raise ValueError(f"--device is {device}, but torch finds no CUDA device here. Pass --device=cpu.")
    return device


def _common_camera(checkpoints: list[Checkpoint]) -> str | None:
    cameras = {checkpoint.label: checkpoint.camera for checkpoint in checkpoints if checkpoint.camera}
    if len(set(cameras.values())) > 1:
        raise ValueError(
            f"The checkpoints were trained on different cameras, {cameras}. Choose one of the dataset with --camera."
        )
    return next(iter(cameras.values()), None)
