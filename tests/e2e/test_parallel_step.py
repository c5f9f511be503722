"""Two processes with half of a batch each do what one does with all of it, under DDP and under FSDP."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import parallel_step
from support.policies import TINY_LAM

from lerobot_lara.dit import modeling_lara_dit
from lerobot_lara.lam.latent_action_model import LatentActionModel
from lerobot_lara.modeling_lara import LaraPolicy

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes leave behind after a step under DDP and one under FSDP; see `support/parallel_step.py`."""
    folder = tmp_path_factory.mktemp("parallel_step")
    torch.manual_seed(0)
    LatentActionModel.from_config(**TINY_LAM, latent_noise=0.0).save_pretrained(folder / "lam")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    command.append(str(Path(__file__).parents[1] / "support" / "parallel_step.py"))
    tests = Path(__file__).parents[1]
    paths = [str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"FOLDER": str(folder), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def read_logs(folder: Path, mode: str) -> list[dict[str, float]]:
    """What each process logged."""
    return [json.loads((folder / f"{mode}_{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture
def whole(folder, monkeypatch):
    """The policy after one step on the whole batch, with its loss and gradients."""
    monkeypatch.setattr(modeling_lara_dit, "torch", torch)
    monkeypatch.setattr(modeling_lara_dit, "sample_timestep", modeling_lara_dit.sample_timestep)
    parallel_step.fix_noise()
    policy = parallel_step.make_policy(folder / "lam")
    loss, log = policy(parallel_step.make_batch())
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    parallel_step.make_optimizer(policy).step()
    return policy, {"loss": loss.item(), **log}, gradients


TERMS = ("loss", "flow_loss", "alignment_loss", "lam_loss")


@pytest.mark.timeout(600)
def test_ddp_has_the_loss_and_the_gradients_of_one_process(folder, whole):
    _, log, gradients = whole
    logs = read_logs(folder, "ddp")
    for term in TERMS:
        mean = sum(one[term] for one in logs) / 2
        assert mean == pytest.approx(log[term], rel=1e-5), term
    parallel = load_file(folder / "gradients.safetensors")
    assert parallel.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(parallel[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.timeout(600)
def test_fsdp_steps_like_one_process_and_its_checkpoint_loads_in_one(folder, whole):
    policy, log, _ = whole
    logs = read_logs(folder, "fsdp")
    assert sum(one["loss"] for one in logs) / 2 == pytest.approx(log["loss"], rel=1e-5)
    loaded = LaraPolicy.from_pretrained(folder / "checkpoint")
    loaded.attach_alignment()
    expected, actual = policy.state_dict(), loaded.state_dict()
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, atol=1e-6, rtol=1e-4, msg=name)
    start = parallel_step.make_policy(folder / "lam").state_dict()
    moved = (start["alignment.alignment_head.5.weight"] - actual["alignment.alignment_head.5.weight"]).abs()
    assert moved.max() > 1e-3
