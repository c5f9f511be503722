"""A finished study that nothing has been trained for."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from pprint import pformat
from typing import Any

import numpy as np
import pytest
from PIL import Image

TASKS = ("door-close-v3", "drawer-open-v3")
LAM_METRICS = {"reconstruction_loss": 0.02, "psnr": 24.0, "copy_psnr": 21.0, "effective_rank": 9.0}
DIT_METRICS = {"flow_loss": 0.9}
LARA_METRICS = {"flow_loss": 0.8, "alignment_loss": 0.7, "retrieval_accuracy": 0.5}


def write_training_log(
    path: Path, metrics: dict[str, float], *, steps: int = 100, log_freq: int = 20, first_step: int = 0
) -> Path:
    """Writes what `lerobot-train` prints, with LeRobot's own logging set-up and `MetricsTracker`."""
    from lerobot.utils.logging_utils import AverageMeter, MetricsTracker
    from lerobot.utils.utils import init_logging
    from tqdm import tqdm

    path.parent.mkdir(parents=True, exist_ok=True)
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    init_logging()
    logger = logging.getLogger()
    formatter = logger.handlers[0].formatter
    logger.handlers.clear()
    with path.open("a") as file:
        handler = logging.StreamHandler(file)
        handler.setFormatter(formatter)
        logger.addHandler(handler)
        logging.info(pformat({"batch_size": 8, "log_freq": log_freq, "steps": steps}))
        tracker = MetricsTracker(
            8,
            1000,
            10,
            {"loss": AverageMeter("loss", ":.3f"), "lr": AverageMeter("lr", ":0.1e"),
             "update_s": AverageMeter("updt_s", ":.3f"), "samples_per_s": AverageMeter("smp/s", ":.0f")},
            initial_step=first_step,
        )  # fmt: skip
        bar = tqdm(total=steps, desc="Training", unit="step", file=file, mininterval=0)
        for step in range(1, steps + 1):
            tracker.step()
            decay = np.exp(-step / steps)
            tracker.loss, tracker.lr, tracker.update_s, tracker.samples_per_s = decay, 5e-4, 0.1, 80
            tracker.update_metrics({name: value * decay for name, value in metrics.items()})
            bar.update()
            if step % log_freq == 0:
                logging.info(tracker)
                tracker.reset_averages()
        bar.close()
    logger.handlers[:] = handlers
    logger.setLevel(level)
    return path


def write_eval_info(directory: Path, counts: dict[str, dict[str, int]], *, films: bool = False) -> None:
    """Writes `eval_info.json` in the form of `lerobot-eval`, with films of the first and last episode on demand."""
    from lerobot.utils.io_utils import write_video

    per_task = []
    for task, count in counts.items():
        successes = [
            episode >= count["episodes"] - count["successes"] for episode in range(count["episodes"])
        ]
        per_task.append({"task_group": task, "task_id": 0, "metrics": {"successes": successes}})
        if films:
            folder = directory / "videos" / f"{task}_0"
            folder.mkdir(parents=True)
            walk = np.zeros((12, 64, 64, 3), np.uint8)
            for time, frame in enumerate(walk):
                frame[:] = (190, 200, 210)
                frame[20:44, 4 * time : 4 * time + 16] = (200, 90, 40)
            for episode in (0, count["episodes"] - 1):
                write_video(str(folder / f"eval_episode_{episode}.mp4"), walk, 20)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "eval_info.json").write_text(json.dumps({"per_task": per_task}))


def make_results(
    *,
    dit: tuple[int, int],
    lara: tuple[int, int],
    labels: tuple[int, int] = (9, 9),
    mixture: tuple[int, int] = (9, 9),
    zero: int = 0,
    motion: str = "passed",
    psnr: float = 26.4,
) -> dict[str, Any]:
    """Returns the content of a `results.json` with the given successes on the two tasks, of 20 episodes each."""
    successes = {
        "zero": (zero, 0),
        "lara_dit": dit,
        "lara": lara,
        "lara_labels": labels,
        "lara_mixture": mixture,
    }
    jobs = ("train_lara_lam", "eval_lara")
    training = {"steps": 100, "batch_size": 8, "policy": {"type": "x", "optimizer_lr": 5e-4}}
    return {
        "arms": {
            arm: {
                task: {"successes": count, "episodes": 20} for task, count in zip(TASKS, counts, strict=True)
            }
            for arm, counts in successes.items()
        },
        "latent_action_model": {
            **{"frame_gap": 16, "gap_seconds": 0.2, "pairs": 64, "latents": {"effective_rank": 9.0}},
            **{"psnr": psnr, "shuffled_psnr": 22.2, "copy_psnr": 21.0},
            "verdicts": [
                {
                    "name": "Latent actions carry motion",
                    "outcome": motion,
                    "finding": f"The PSNR is {psnr} dB",
                },
                {
                    "name": "Latent actions have not collapsed",
                    "outcome": "not measured",
                    "finding": "The effective rank is 9.0 of 32",
                },
            ],
        },
        "settings": {
            **{"tasks": list(TASKS), "num_demos": 25, "num_videos": 50, "num_episodes": 20},
            **{"episode_length": 300, "image_size": 64, "training_flags": []},
        },
        "training": dict.fromkeys(("lara_lam", "lara_dit", "lara", "lara_labels", "lara_mixture"), training),
        "seeds": {"demo": 0, "video": 10_000, "eval": 100_000, "training": 1000},
        "versions": {"python": "3.12", "lerobot": "0.6.1"},
        "hardware": {"cpus": 2, "machine": "x86_64", "system": "Linux"},
        "wall_times": {**dict.fromkeys(jobs, 61.0), "total": 122.0},
        "titles": {job: f"Do {job}" for job in jobs},
        "environment": {"OMP_NUM_THREADS": "1"},
        "commands": {job: f"lerobot-{job} --flag=<{job}>" for job in jobs},
    }


def write_study(output_dir: Path, results: dict[str, Any]) -> Path:
    """Writes the logs, evaluations, figures and measurements that the report of these results reads."""
    runs = {
        "lara_lam": LAM_METRICS,
        "lara_dit": DIT_METRICS,
        "lara": LARA_METRICS,
        "lara_labels": LARA_METRICS,
        "lara_mixture": LARA_METRICS,
    }
    for run, metrics in runs.items():
        write_training_log(output_dir / "jobs" / f"train_{run}.log", metrics)
    for arm, counts in results["arms"].items():
        write_eval_info(output_dir / "eval" / arm, counts, films=arm != "zero")
    write_probe(output_dir / "probe", results["latent_action_model"])
    return output_dir


def write_probe(folder: Path, measured: dict[str, Any]) -> None:
    """Writes what the demo reads of a report of `lara probe`."""
    from lerobot_lara.evaluation.probe.prediction import COPY, OWN, SHUFFLED

    (folder / "figures").mkdir(parents=True)
    for name in ("predictions", "latents"):
        Image.new("RGB", (20, 20)).save(folder / "figures" / f"{name}_1.png")
    kinds = {"psnr": OWN, "shuffled_psnr": SHUFFLED, "copy_psnr": COPY}
    psnr = {kind: {"value": measured[name], "low": 0, "high": 0} for name, kind in kinds.items()}
    model = {
        "prediction": {"psnr": psnr},
        "latents": measured["latents"],
        "verdicts": measured["verdicts"],
    }
    frame_gap = measured["frame_gap"]
    content = {
        "pairs": measured["pairs"],
        "frame_gap": frame_gap,
        "fps": frame_gap / measured["gap_seconds"],
        "models": [model],
    }
    (folder / "metrics.json").write_text(json.dumps(content))


@pytest.fixture
def study(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Returns `study(results) -> output_dir`."""
    return lambda results: write_study(tmp_path / "demo", results)


@pytest.fixture
def results() -> Callable[..., dict[str, Any]]:
    """Returns `make_results`."""
    return make_results


@pytest.fixture
def assert_is_drawn() -> Callable[[Path], None]:
    """Returns a check that a PNG shows something."""

    def check(path: Path) -> None:
        image = np.asarray(Image.open(path).convert("RGB"))
        assert min(image.shape[:2]) > 150
        assert image.std() > 5, "the figure is (nearly) blank"

    return check


@pytest.fixture
def training_log() -> Callable[..., Path]:
    """Returns `write_training_log`."""
    return write_training_log
