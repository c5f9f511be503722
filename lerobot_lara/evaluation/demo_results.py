"""Collects the results of a finished demo study from the files that its jobs wrote."""

import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from lerobot_lara.evaluation.report import PROBE, TRAINED_ARMS
from lerobot_lara.evaluation.study.jobs import (
    ENVIRONMENT,
    ENVIRONMENT_DEFAULTS,
    OFFLINE,
    Job,
    JobTime,
    busy_seconds,
    shell_line,
)
from lerobot_lara.evaluation.study.metaworld_jobs import ZERO, checkpoint, read_outcomes
from lerobot_lara.evaluation.study.result_files import reading_result

# The report's tables and figures keep this order.
ARMS = (ZERO, *TRAINED_ARMS)
REPORTED_PACKAGES = (
    "lerobot_policy_lara",
    "lerobot",
    "torch",
    "diffusers",
    "transformers",
    "metaworld",
    "mujoco",
)


def collect_results(
    settings: Mapping[str, Any], jobs: Sequence[Job], times: Mapping[str, JobTime], output_dir: Path
) -> dict:
    """Collects the results of a finished study.

    Args:
        settings: Fields of `DemoSettings`.
        jobs: The jobs of the study.
        times: When each job ran, by name.
        output_dir: Folder of the study.

    Returns:
        The content of `results.json`: "arms" ({arm: {task: {"successes", "episodes"}}}), "latent_action_model" (see
        `read_probe`), "settings", "training" (steps, batch size and fields of the policy), "seeds", "versions",
        "hardware", "wall_times" (seconds of each job, and the "total" during which any job ran), "titles",
        "environment" and "commands".

    Raises:
        ValueError: A file that a job has written is missing, torn or odd.
    """
    plain_settings = dict(settings)
    seeds = {
        name.removesuffix("_seed"): plain_settings.pop(name)
        for name in ("demo_seed", "video_seed", "eval_seed")
    }
    training = {name: _read_training(output_dir, name) for name in ("lara_lam", *TRAINED_ARMS)}
    seeds["training"] = training["lara"].pop("seed")
    return {
        "arms": {arm: read_successes(output_dir / "eval" / arm / "eval_info.json") for arm in ARMS},
        "latent_action_model": read_probe(output_dir / PROBE / "metrics.json"),
        "settings": plain_settings,
        "training": {
            name: {key: config[key] for key in ("steps", "batch_size", "policy")}
            for name, config in training.items()
        },
        "seeds": seeds,
        "versions": {"python": platform.python_version(), **_package_versions()},
        "hardware": {"cpus": os.cpu_count(), "machine": platform.machine(), "system": platform.system()},
        "wall_times": {
            **{job.name: times[job.name].seconds for job in jobs},
            "total": busy_seconds(times[job.name] for job in jobs),
        },
        "titles": {job.name: job.title for job in jobs},
        "environment": {**ENVIRONMENT_DEFAULTS, **ENVIRONMENT, **OFFLINE},
        "commands": {job.name: shell_line(job.command) for job in jobs},
    }


def _read_training(output_dir: Path, name: str) -> dict[str, Any]:
    """What the results tell of a training."""
    with reading_result(checkpoint(output_dir, name) / "train_config.json") as config:
        return {key: config[key] for key in ("steps", "batch_size", "policy", "seed")}


def read_successes(eval_info: Path) -> dict[str, dict[str, int]]:
    """Counts the successes of each task in the `eval_info.json` of `lerobot-eval`.

    Returns:
        {task: {"successes": ..., "episodes": ...}}, in the order of evaluation.
    """
    return {
        task: {"successes": sum(outcomes), "episodes": len(outcomes)}
        for task, outcomes in read_outcomes(eval_info).items()
    }


def read_probe(metrics: Path) -> dict[str, Any]:
    """Picks what the report shows from the `metrics.json` of `lara probe`.

    Returns:
        "pairs", "frame_gap" (frames), "gap_seconds"; "psnr", "shuffled_psnr" and "copy_psnr" (dB; None if the model
        predicts no frames); "latents" (their statistics) and "verdicts" (with "name", "outcome" and "finding").
    """
    # Imported here, because the probe loads LeRobot's datasets, which takes seconds.
    from lerobot_lara.evaluation.probe.prediction import COPY, OWN, SHUFFLED

    names = {"psnr": OWN, "shuffled_psnr": SHUFFLED, "copy_psnr": COPY}
    with reading_result(metrics) as content:
        (model,) = content["models"]
        psnr = {} if model["prediction"] is None else model["prediction"]["psnr"]
        return {
            "pairs": content["pairs"],
            "frame_gap": content["frame_gap"],
            "gap_seconds": content["frame_gap"] / content["fps"],
            **{name: psnr[kind]["value"] if psnr else None for name, kind in names.items()},
            "latents": model["latents"],
            "verdicts": model["verdicts"],
        }


def _package_versions() -> dict[str, str]:
    versions = {}
    for package in REPORTED_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
