"""Trains and evaluates for minutes, and tells by how much resident memory and open files grow.

    python benchmarks/soak.py [training] [evaluation] [--minutes=6] [--workers=2]

- training: `lerobot-train` of a tiny `lara` on a mixture of one, with processes that read the data, and a checkpoint
  every 500 steps; memory and files are those of this process and its children.
- evaluation: `lerobot-eval` of that policy on Meta-World again and again, each time with new environments.

The slopes are those of straight lines through the samples after the first third, per 1000 steps or episodes, with the
95 % interval of the regression. Level is what is wanted.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.helpers import run_eval, run_train
from support.tiny_datasets import make_tiny_dataset

logger = logging.getLogger(__name__)

LAM = {
    "policy__type": "lara_lam",
    "policy__frame_gap": 3,
    "policy__image_size": 32,
    "policy__prediction_size": 16,
    "policy__frame_encoder_width": 16,
    "policy__idm_width": 16,
    "policy__idm_num_layers": 1,
    "policy__fdm_width": 16,
    "policy__fdm_num_layers": 1,
}
LARA = {
    "policy__type": "lara",
    "policy__frame_gap": 3,
    "policy__image_size": 32,
    "policy__vision_encoder_width": 16,
    "policy__width": 16,
    "policy__num_layers": 3,
    "policy__num_heads": 2,
    "policy__chunk_size": 8,
    "policy__n_action_steps": 8,
}


class _TimeIsUpError(Exception):
    pass


class Samples:
    """Resident memory and open files of this process and its children, at counts of steps or episodes."""

    def __init__(self, minutes: float) -> None:
        self.seconds, self.end = 60 * minutes, 0.0
        self.rows: list[tuple[int, float, int]] = []

    def take(self, count: int) -> None:
        """Adds a sample; raises `_TimeIsUpError` at the end."""
        processes = _family(os.getpid())
        memory = sum(_read(pid, "statm", lambda text: int(text.split()[1])) for pid in processes)
        files = sum(_count_files(pid) for pid in processes)
        self.rows.append((count, memory * os.sysconf("SC_PAGE_SIZE") / 2**20, files))
        self.end = self.end or time.monotonic() + self.seconds
        if time.monotonic() > self.end:
            raise _TimeIsUpError

    def describe(self) -> dict[str, object]:
        """The slopes per 1000."""
        counts, memory, files = np.array(self.rows[len(self.rows) // 3 :], dtype=float).T
        return {
            "count": int(counts[-1]),
            "samples": len(counts),
            "memory_mb": [round(memory[0], 1), round(memory[-1], 1)],
            "memory_mb_per_1000": _slope(counts, memory),
            "open_files": [int(files[0]), int(files[-1])],
            "open_files_per_1000": _slope(counts, files),
        }


def train(folder: Path, samples: Samples, workers: int) -> None:
    """Trains until the time is up."""
    from lerobot.scripts import lerobot_train

    root = make_tiny_dataset(folder / "video", num_episodes=8, num_frames=40)
    lam = run_train(**LAM, dataset__root=root, output_dir=folder / "lam", steps=2).checkpoint
    update, steps = lerobot_train.update_policy, 0

    def counted(*args: object, **kwargs: object) -> object:
        nonlocal steps
        steps += 1
        if steps % 20 == 0:
            samples.take(steps)
        return update(*args, **kwargs)

    lerobot_train.update_policy = counted
    flags = {"policy__lam_path": lam, "dataset__root": root, "output_dir": folder / "lara", "steps": 10**6}
    try:
        run_train(**LARA, **flags, num_workers=workers, save_freq=500, batch_size=8, log_freq=1000)
    except _TimeIsUpError:
        pass
    finally:
        lerobot_train.update_policy = update


def evaluate(folder: Path, samples: Samples, workers: int) -> None:
    """Evaluates until the time is up."""
    root = make_tiny_dataset(folder / "demos", num_episodes=2, num_frames=20)
    dit = {**LARA, "policy__type": "lara_dit", "policy__frame_gap": None}
    policy = run_train(**dit, dataset__root=root, output_dir=folder / "dit", steps=1).checkpoint
    episodes = 0
    flags = {"env__task": "reach-v3", "env__image_size": 32, "env__episode_length": 24}
    try:
        while True:
            run_eval(policy__path=policy, output_dir=folder / "eval", eval__n_episodes=3, **flags)
            episodes += 3
            samples.take(episodes)
    except _TimeIsUpError:
        pass


def _slope(counts: np.ndarray, values: np.ndarray) -> str:
    """Slope per 1000 of the line through the points, with its 95 % interval."""
    x = counts - counts.mean()
    slope = (x @ values) / (x @ x)
    rest = values - values.mean() - slope * x
    error = 1.96 * np.sqrt((rest @ rest) / max(1, len(x) - 2) / (x @ x))
    return f"{1000 * slope:.3f} [{1000 * (slope - error):.3f}, {1000 * (slope + error):.3f}]"


def _family(pid: int) -> list[int]:
    """A process and those below it."""
    children = _read(pid, f"task/{pid}/children", lambda text: [int(each) for each in text.split()], [])
    return [pid, *(each for child in children for each in _family(child))]


def _count_files(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:  # it has ended
        return 0


def _read[T](pid: int, name: str, parse: Callable[[str], T], otherwise: T = 0) -> T:
    try:
        return parse(Path(f"/proc/{pid}/{name}").read_text())
    except OSError:  # it has ended
        return otherwise


def main() -> None:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "what", nargs="*", default=["training", "evaluation"], metavar="training | evaluation"
    )
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    os.environ.setdefault("MUJOCO_GL", "egl")
    runs = {"training": train, "evaluation": evaluate}
    for name in arguments.what:
        samples = Samples(arguments.minutes)
        with tempfile.TemporaryDirectory() as folder:
            runs[name](Path(folder), samples, arguments.workers)
        logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
        logger.info("%s: %s", name, json.dumps(samples.describe()))


if __name__ == "__main__":
    main()
