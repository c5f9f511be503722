"""Two processes on the CPU: codebooks stay equal on both ranks, and the loss falls."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import REPO_ID, make_tiny_dataset
from safetensors.torch import load_file

pytestmark = pytest.mark.e2e


@pytest.mark.timeout(900)
def test_codebooks_stay_equal(tmp_path):
    root = make_tiny_dataset(tmp_path / "videos", num_episodes=4, num_frames=20, action=False, state=False)
    flags = {
        "policy.type": "lara_lam",
        "policy.device": "cpu",
        "policy.push_to_hub": "false",
        "policy.frame_gap": 3,
        "policy.image_size": 32,
        "policy.prediction_size": 16,
        "policy.quantizer": "vq",
        "policy.codebook_size": 8,
        "policy.idm_num_layers": 1,
        "policy.fdm_num_layers": 1,
        "policy.scheduler_warmup_steps": 0,
        "dataset.repo_id": REPO_ID,
        "dataset.root": root,
        "output_dir": tmp_path / "out",
        "batch_size": 8,
        "num_workers": 0,
        "steps": 12,
        "log_freq": 4,
        "save_freq": 12,
    }
    # What `accelerate launch` starts on several GPUs; on the CPU it would ask for MPI.
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    command += [str(Path(__file__).with_name("train_and_report.py"))]
    command += [f"--{name}={value}" for name, value in flags.items()]
    environment = os.environ | {"REPORT_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=850, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    states = [load_file(tmp_path / f"rank_{rank}.safetensors") for rank in (0, 1)]
    assert states[0] and states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key
    losses = [json.loads((tmp_path / f"rank_{rank}.json").read_text()) for rank in (0, 1)]
    first, second = ([log["reconstruction_loss"] for log in rank] for rank in losses)
    assert first != second, "the ranks must see different data"
    assert sum(first[-4:] + second[-4:]) < sum(first[:4] + second[:4])
