"""Two processes on the CPU: codebooks stay equal on both ranks, the loss falls, and a mixture is shared out."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.policies import TINY_LAM
from support.tiny_bases import CAMERA, base_options
from support.tiny_datasets import REPO_ID, make_tiny_dataset

from lerobot_lara.lam.latent_action_model import LatentActionModel

pytestmark = pytest.mark.e2e

LAM_FLAGS = {
    "policy.type": "lara_lam",
    "policy.device": "cpu",
    "policy.push_to_hub": "false",
    "policy.frame_gap": 3,
    "policy.image_size": 32,
    "policy.prediction_size": 16,
    "policy.idm_num_layers": 1,
    "policy.fdm_num_layers": 1,
    "policy.scheduler_warmup_steps": 0,
    "batch_size": 8,
    "num_workers": 0,
    "log_freq": 4,
}


def train_on_two_processes(
    folder: Path, flags: Mapping[str, Any], defaults: Mapping[str, Any] = LAM_FLAGS
) -> None:
    """Runs `lerobot-train` with what `accelerate launch` starts on several GPUs; on the CPU that would ask for MPI."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    command += [str(Path(__file__).parents[1] / "support" / "train_and_report.py")]
    command += [f"--{name}={value}" for name, value in (dict(defaults) | dict(flags)).items()]
    environment = os.environ | {"REPORT_DIR": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=850, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def all_draws(folder: Path) -> list[int]:
    """Numbers of the samples that both ranks have drawn."""
    ranks = [json.loads((folder / f"draws_{rank}.json").read_text()) for rank in (0, 1)]
    return [draw for rank in ranks for step in rank for draw in step]


@pytest.mark.timeout(900)
def test_codebooks_stay_equal(tmp_path):
    root = make_tiny_dataset(tmp_path / "videos", num_episodes=4, num_frames=20, action=False, state=False)
    flags = {
        "policy.quantizer": "vq",
        "policy.codebook_size": 8,
        "dataset.repo_id": REPO_ID,
        "dataset.root": root,
        "output_dir": tmp_path / "out",
        "steps": 12,
        "save_freq": 12,
    }
    train_on_two_processes(tmp_path, flags)
    states = [load_file(tmp_path / f"rank_{rank}.safetensors") for rank in (0, 1)]
    assert states[0] and states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key
    losses = [json.loads((tmp_path / f"rank_{rank}.json").read_text()) for rank in (0, 1)]
    first, second = ([log["reconstruction_loss"] for log in rank] for rank in losses)
    assert first != second, "the ranks must see different data"
    assert sum(first[-4:] + second[-4:]) < sum(first[:4] + second[:4])


@pytest.mark.timeout(900)
def test_a_mixture_is_shared_out(tmp_path):
    """Each rank reads its own draws of the epoch, and together they read all of them, once."""
    entries = []
    for name, gap in (("slow", 5), ("fast", 10)):
        make_tiny_dataset(
            tmp_path / name, num_episodes=2, num_frames=10 + gap, action=False, state=False, fps=gap
        )
        entries.append({"name": name, "repo_id": f"local/{name}", "root": name, "action_free": True})
    mixture = tmp_path / "mixture.yaml"
    mixture.write_text(yaml.safe_dump({"entries": entries, "frame_gap_s": 0.6, "reference": "slow"}))
    steps = 3  # fewer draws than an epoch has
    flags = {"dataset.repo_id": mixture, "output_dir": tmp_path / "out", "steps": steps, "save_freq": steps}
    train_on_two_processes(tmp_path, flags)
    draws = all_draws(tmp_path)
    assert len(draws) == len(set(draws)) == steps * 2 * 8
    logs = [json.loads((tmp_path / f"rank_{rank}.json").read_text()) for rank in (0, 1)]
    assert all(
        {"prediction_error/slow", "prediction_error/fast"} <= log.keys() for rank in logs for log in rank
    )


@pytest.mark.timeout(900)
def test_an_aligned_policy_of_lerobot_trains(tmp_path):
    """Its frame pairs come from a view over LeRobot's dataset, which both processes share out."""
    torch.manual_seed(0)
    LatentActionModel.from_config(**TINY_LAM).save_pretrained(tmp_path / "lam")
    options = base_options("multi_task_dit", tmp_path / "base")
    options = {f"policy.{k}": list(v) if isinstance(v, tuple) else v for k, v in options.items()}
    for name in ("input_features", "output_features"):
        del options[f"policy.{name}"]
    flags = options | {
        "policy.type": "lara_multi_task_dit",
        "policy.push_to_hub": "false",
        "policy.lam_path": tmp_path / "lam",
        "policy.frame_gap": 4,
        "dataset.repo_id": REPO_ID,
        "dataset.root": make_tiny_dataset(tmp_path / "data", num_frames=20, cameras=(CAMERA,)),
        "output_dir": tmp_path / "out",
        "steps": 4,
        "save_freq": 4,
        "batch_size": 4,
        "num_workers": 0,
    }
    train_on_two_processes(tmp_path, flags, {})
    draws = all_draws(tmp_path)  # fewer than the 40 of an epoch
    assert len(draws) == len(set(draws)) == 4 * 2 * 4
    checkpoint = tmp_path / "out" / "checkpoints" / "last" / "pretrained_model"
    assert (checkpoint / "lam" / "model.safetensors").is_file()
    started, ended = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "lam", checkpoint / "lam")
    )
    assert any(not torch.equal(started[key], ended[key]) for key in ended)
