"""Collects what finished cells of the label-efficiency study left, as rows of CSV files."""

import csv
import json
import logging
from pathlib import Path

from lerobot_lara.evaluation.study.metaworld_jobs import ZERO, read_outcomes
from lerobot_lara.evaluation.study.training_log import parse_training_log

logger = logging.getLogger("label_efficiency")

# Logged values of which the last one is kept.
TRAINING_METRICS = ("flow_loss", "alignment_centered_cosine", "alignment_retrieval", "latent_effective_rank")


def collect_results(output_dir: Path) -> list[dict[str, str]]:
    """Collects one row per finished cell and task.

    Args:
        output_dir: Folder of the study.

    Returns:
        Rows with "arm", "labels", "seed", "task" and "outcomes", which has a 1 for every solved scene and a 0 for every
        other. The outcomes of the expert are those of its attempts while it recorded the demonstrations.
    """
    rows = []
    recorded = output_dir / "data" / "demos" / "meta" / "collection.json"
    if recorded.exists():
        attempts: dict[str, str] = {}
        for episode in json.loads(recorded.read_text())["episodes"]:
            outcomes = "0" * episode["failed_attempts"] + "1"
            attempts[episode["task"]] = attempts.get(episode["task"], "") + outcomes
        for task, outcomes in sorted(attempts.items()):
            rows.append({"arm": "expert", "labels": "", "seed": "", "task": task, "outcomes": outcomes})
    for path in sorted((output_dir / "eval").glob("*/eval_info.json")):
        cell = path.parent.name
        arm, labels, seed = (cell, "", "") if cell == ZERO else cell.rsplit("_", 2)
        for task, successes in read_outcomes(path).items():
            outcomes = "".join(str(int(success)) for success in successes)
            rows.append({"arm": arm, "labels": labels, "seed": seed, "task": task, "outcomes": outcomes})
    return rows


def collect_training(output_dir: Path) -> list[dict[str, str]]:
    """Collects one row per finished training, including those of latent action models.

    Args:
        output_dir: Folder of the study.

    Returns:
        Rows with "training", "seconds" (which depend on what else the machine did) and the last logged value of each of
        `TRAINING_METRICS`.
    """
    rows = []
    for path in sorted((output_dir / "jobs").glob("train_*.json")):
        job = json.loads(path.read_text())
        if job["status"] == "done":
            curves = parse_training_log(path.with_suffix(".log"))
            last = {name: f"{curves[name][-1][1]:g}" if name in curves else "" for name in TRAINING_METRICS}
            name = path.stem.removeprefix("train_")
            rows.append({"training": name, "seconds": f"{job['seconds']:.0f}"} | last)
    return rows


def collect_held_out_errors(output_dir: Path) -> list[dict[str, str]]:
    """Collects one row per finished cell and held-out episode.

    Args:
        output_dir: Folder of the study.

    Returns:
        Rows with "arm", "labels", "seed", "episode" and "error".
    """
    rows = []
    for path in sorted((output_dir / "held_out").glob("*/held_out.json")):
        arm, labels, seed = path.parent.name.rsplit("_", 2)
        for episode, error in json.loads(path.read_text()).items():
            row = {"arm": arm, "labels": labels, "seed": seed, "episode": episode, "error": f"{error:.5f}"}
            rows.append(row)
    return rows


def write_rows(rows: list[dict[str, str]], path: Path) -> None:
    """Writes rows with equal keys as CSV; without rows, only logs a warning."""
    if not rows:
        logger.warning("Nothing is finished yet, so that %s is not written.", path)
        return
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    logger.info("%d rows in %s", len(rows), path)
