"""LeRobot's own commands, run inside the test process."""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.tiny_datasets import REPO_ID


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
