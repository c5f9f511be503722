"""Synthetic data, and LeRobot's own commands run inside the test process."""

import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

REPO_ID = "local/tiny"


def make_tiny_dataset(
    root: str | Path,
    *,
    num_episodes: int = 2,
    num_frames: int | Sequence[int] = 12,
    size: int | tuple[int, int] = 32,
    action: bool = True,
    state: bool = True,
    action_dim: int = 4,
    state_dim: int = 4,
    cameras: Sequence[str] = ("observation.image",),
    storage: str = "image",
    fps: int = 10,
    task: str | Sequence[str] = "push the square",
    seed: int = 0,
) -> Path:
    """Writes a LeRobotDataset v3 in which a bright square walks over a noisy background.

    The first two action dimensions are the square's next displacement, so both the frames and the actions
    carry something to learn; the first two state dimensions are its position.

    Args:
        root: Directory to create; must not exist yet.
        num_frames: Frames per episode, one number for all or one for each.
        size: Square side, or (height, width), in pixels.
        action: False writes video without any `action` feature.
        cameras: Image feature keys.
        storage: "image" or "video".
        task: One instruction for all episodes, or several that the episodes take in turn.

    Returns:
        `root`; open it with `LeRobotDataset(REPO_ID, root=root)`.
    """
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    height, width = (size, size) if isinstance(size, int) else size
    lengths = [num_frames] * num_episodes if isinstance(num_frames, int) else list(num_frames)
    tasks = [task] if isinstance(task, str) else list(task)
    features: dict[str, dict[str, Any]] = {
        camera: {"dtype": storage, "shape": (height, width, 3), "names": ["height", "width", "channels"]}
        for camera in cameras
    }
    if state:
        features["observation.state"] = {"dtype": "float32", "shape": (state_dim,), "names": None}
    if action:
        features["action"] = {"dtype": "float32", "shape": (action_dim,), "names": None}
    dataset = LeRobotDataset.create(
        REPO_ID, fps=fps, features=features, root=root, robot_type="synthetic", use_videos=storage == "video"
    )

    generator = np.random.default_rng(seed)
    side = max(4, min(height, width) // 4)
    room = np.array([height - side, width - side])
    for episode, length in enumerate(lengths):
        position = generator.integers(0, room + 1)
        for _ in range(length):
            target = np.clip(position + generator.integers(-3, 4, size=2), 0, room)
            frame: dict[str, Any] = {"task": tasks[episode % len(tasks)]}
            for index, camera in enumerate(cameras):
                image = generator.integers(0, 40, size=(height, width, 3), dtype=np.uint8)
                row, column = position
                image[row : row + side, column : column + side] = (220, 180 - 60 * (index % 3), 60)
                frame[camera] = image
            if state:
                frame["observation.state"] = _padded(position / room, state_dim)
            if action:
                frame["action"] = _padded((target - position) / 3, action_dim)
            dataset.add_frame(frame)
            position = target
        dataset.save_episode()
    dataset.finalize()
    return Path(root)


def _padded(values: np.ndarray, dim: int) -> np.ndarray:
    padded = np.zeros(dim, dtype=np.float32)
    padded[: min(dim, len(values))] = values[:dim]
    return padded


@dataclass
class TrainRun:
    """What a `run_train` left behind: its folder, and one dict of logged numbers per log window."""

    output_dir: Path
    metrics: list[dict[str, float]]

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint's policy directory, for `from_pretrained`, `--policy.path` or `lam_path`."""
        return self.output_dir / "checkpoints" / "last" / "pretrained_model"

    def values(self, name: str) -> list[float]:
        """The logged course of one number, e.g. `values("loss")`."""
        return [window[name] for window in self.metrics]


def run_train(**flags: Any) -> TrainRun:
    """Runs the real `lerobot-train` in this process, with flags parsed as on the command line.

    A double underscore stands for the dot: `run_train(policy__type="lara_dit", dataset__root=root,
    output_dir=out, steps=3)`. None leaves a flag out, also one of the defaults below. With `config_path` the
    file decides, except for what keeps a test on this machine. To resume:
    `run_train(config_path=run.checkpoint / "train_config.json", resume=True, steps=6, output_dir=None)`;
    the folder is then the original one.

    Raises:
        Whatever the training raises; `SystemExit` for flags that LeRobot's parser refuses.
    """
    from lerobot.scripts import lerobot_train
    from lerobot.utils.logging_utils import MetricsTracker

    defaults: dict[str, Any] = {}
    if not flags.get("resume"):
        defaults |= {"policy__push_to_hub": False, "policy__device": "cpu", "num_workers": 0}
    if "config_path" not in flags:
        defaults |= {
            "dataset__repo_id": REPO_ID,
            "batch_size": 4,
            "steps": 2,
            "log_freq": 1,
            "env_eval_freq": 0,
        }
    metrics: list[dict[str, float]] = []

    def keep(record: logging.LogRecord) -> bool:
        if isinstance(record.msg, MetricsTracker):
            metrics.append(record.msg.to_dict())
        return True

    with _command("lerobot-train", defaults | flags, log_filter=keep):
        lerobot_train.main()
    output_dir = flags.get("output_dir") or Path(flags["config_path"]).resolve().parents[3]
    return TrainRun(Path(output_dir), metrics)


def run_eval(**flags: Any) -> dict[str, Any]:
    """Runs the real `lerobot-eval` in this process, flags as in `run_train`; returns its `eval_info.json`."""
    from lerobot.scripts import lerobot_eval

    defaults = {
        "policy__device": "cpu",
        "env__type": "metaworld_fast",
        "eval__n_episodes": 1,
        "eval__batch_size": 1,
        "eval__use_async_envs": False,
    }
    with _command("lerobot-eval", defaults | flags):
        lerobot_eval.main()
    return json.loads((Path(flags["output_dir"]) / "eval_info.json").read_text())


@contextmanager
def _command(
    name: str, flags: dict[str, Any], log_filter: Callable[[logging.LogRecord], bool] | None = None
) -> Iterator[None]:
    """Puts the flags where LeRobot reads them, and afterwards undoes what the command did to this process."""
    from accelerate.state import AcceleratorState, GradientState, PartialState
    from lerobot.configs import parser

    root = logging.getLogger()
    argv, level, handlers, filters = sys.argv, root.level, root.handlers[:], root.filters[:]
    sys.argv = [name, *_command_line(flags)]
    if log_filter:
        root.addFilter(log_filter)
    try:
        yield
    finally:
        sys.argv = argv
        root.setLevel(level)
        root.handlers[:], root.filters[:] = handlers, filters
        # A `path:` found in one run's config file would otherwise leak into the next run.
        parser._config_path_args.clear()
        parser._config_yaml_overrides.clear()
        for state in (AcceleratorState, GradientState, PartialState):
            state._shared_state.clear()


def _command_line(flags: dict[str, Any]) -> list[str]:
    line = []
    for name, value in flags.items():
        if value is None:
            continue
        text = str(value).lower() if isinstance(value, bool) else str(value)
        line.append(f"--{name.replace('__', '.')}={text}")
    return line
