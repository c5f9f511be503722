"""Keeps tests offline, on the CPU and off the user's files, before torch or LeRobot load; marks the slow ones."""

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.reach import reached
from support.simpler_assets import PACK

_HOME = tempfile.TemporaryDirectory(prefix="lerobot_lara_tests_")
os.environ.update(
    HF_HOME=f"{_HOME.name}/huggingface",
    HF_LEROBOT_HOME=f"{_HOME.name}/lerobot",
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
    WANDB_MODE="disabled",
    CUDA_VISIBLE_DEVICES="",
    TORCHINDUCTOR_CACHE_DIR=f"{_HOME.name}/inductor",
    # Tiny models run slower when their operators are split over threads, and sums depend on the thread count.
    OMP_NUM_THREADS="1",
)
if sys.platform == "linux":
    os.environ.setdefault("MUJOCO_GL", "egl")
if PACK.is_dir():
    # Before any process is started that forks the simulators' processes later on.
    os.environ.setdefault("MS_ASSET_DIR", str(PACK))

# A test that may call one of these functions gets the marker, even without declaring it (markers: pyproject.toml).
MARKED_BY = {"run_train": "e2e", "run_eval": "e2e", "skip_without_rendering": "rendering"}
LONG = ("e2e", "rendering", "slow")
# Marked slow: they take most of the other tests' time, with datasets written and read, videos, plots and training.
SLOW = (
    "benchmarks/test_label_efficiency.py",
    "data/mixture/test_samples.py",
    "data/test_upgrade_dataset.py",
    "data/video/test_import_long_video.py",
    "data/video/test_import_video.py",
    "data/test_killed_collection.py",
    "data/video/test_killed_import.py",
    "dit/test_lara_dit_policy.py::test_training_reduces_the_loss",
    "envs/test_vla_eval.py",
    "evaluation/probe/test_action_probe.py",
    "evaluation/probe/test_command.py",
    "evaluation/probe/test_killed_probe.py",
    "evaluation/probe/test_measure.py",
    "evaluation/probe/test_verdicts.py",
    "evaluation/show_data/test_show_data.py",
    "evaluation/study/test_killed_study.py",
    "evaluation/test_demo.py",
    "evaluation/test_killed_demo.py",
    "evaluation/test_report.py",
    "labeling/test_killed_label.py",
    "lam/test_perceptual.py",
    "lam/test_quantizer.py::test_codebooks_stay_equal_on_two_processes",
    "test_modeling_lara.py::test_training_aligns",
    "training/test_memory.py::test_compiled_",
)


def pytest_configure() -> None:
    """Refuses a list of slow tests that names some that are gone."""
    for entry in SLOW:
        file, _, name = entry.partition("::")
        path = Path(__file__).parent / file
        if not path.is_file() or f"def {name}" not in path.read_text():
            raise pytest.UsageError(
                f"SLOW in {__file__} has {entry!r}, which names no test. Update or remove it."
            )


@pytest.hookimpl(tryfirst=True)  # before -m is applied
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that `make test-fast` leaves out, and lets them run first: two processes then end together."""
    for item in items:
        for name in reached(item, MARKED_BY):
            item.add_marker(MARKED_BY[name])
        if item.nodeid.removeprefix("tests/").startswith(SLOW):
            item.add_marker("slow")
    # By file, the longest first: tests of one file stay together and share its fixtures.
    order = {item.path: len(LONG) for item in items}
    for item in items:
        ranks = [rank for rank, marker in enumerate(LONG) if item.get_closest_marker(marker)]
        order[item.path] = min([order[item.path], *ranks])
    items.sort(key=lambda item: order[item.path])


@pytest.fixture
def killed(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Returns `run(name, moments, timed=0)`: what became of a command that was killed (`support.kill_commands`)."""
    if not hasattr(os, "fork"):
        pytest.skip("kills a forked process")

    def run(name: str, moments: int, timed: int = 0) -> list[dict[str, Any]]:
        tests = Path(__file__).parent
        command = [sys.executable, "-m", "support.kill_commands", str(tmp_path), f"{name}={moments}+{timed}"]
        paths = f"{tests.parent}{os.pathsep}{tests}"
        environment = {**os.environ, "PYTHONPATH": paths, "SVT_LOG": "1"}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr[-3000:]
        found = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
        assert len(found) >= moments + timed
        return found

    return run


@pytest.fixture
def tiny_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Returns `make(**options) -> root`: a new dataset per call, with the options of `make_tiny_dataset`."""
    from support.tiny_datasets import make_tiny_dataset

    number = itertools.count(1)

    def make(**options: Any) -> Path:
        return make_tiny_dataset(tmp_path / f"dataset_{next(number)}", **options)

    return make
