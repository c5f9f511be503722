"""Keeps every test offline, on the CPU and away from the user's files; runs before torch or LeRobot load."""

import itertools
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
)
if sys.platform == "linux":
    os.environ.setdefault("MUJOCO_GL", "egl")
# Tiny models run slower when their operators are split over threads, and sums depend on the thread count.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def tiny_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Returns `make(**options) -> root`: a new dataset per call, with the options of `make_tiny_dataset`."""
    from support.tiny_datasets import make_tiny_dataset

    number = itertools.count(1)

    def make(**options: Any) -> Path:
        return make_tiny_dataset(tmp_path / f"dataset_{next(number)}", **options)

    return make
