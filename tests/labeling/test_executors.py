"""Labeling by datatrove's tasks: the same bytes as on one machine, a script for Slurm, and nothing that is skipped."""

import sys

import pytest
from support import slurm
from support.tiny_datasets import make_tiny_dataset

from lerobot_lara.cli import main
from lerobot_lara.cluster import executors
from lerobot_lara.data.latent_labels.labels import LatentLabels
from lerobot_lara.labeling.plan import LabelOptions, LabelPlan
from lerobot_lara.labeling.run import label
from lerobot_lara.labeling.shards import forget

from .test_label import save_lam

datatrove = pytest.importorskip("datatrove", reason="needs the extra `label`")


@pytest.fixture
def data(tmp_path):
    root = make_tiny_dataset(tmp_path / "data", num_episodes=5, num_frames=10, action=False, state=False)
    return save_lam(tmp_path / "lam"), str(root)


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and "logs" not in path.parts)
    return {path.relative_to(folder): path.read_bytes() for path in files}


@pytest.fixture
def jobs(monkeypatch):
    """Scripts that would be given to Slurm, with their further arguments."""
    return slurm.capture_scripts(monkeypatch)


def submit(lam, root, out, tasks):
    flags = [f"--tasks={tasks}", "--partition=gpu", "--gpus-per-task=1", "--shard-frames=10"]
    return main(["label", lam, root, f"--out={out}", "--executor=slurm", *flags])


def run_task(out, executor, rank, tasks, monkeypatch):
    slurm.run_task(out / "logs" / executor, rank, tasks, monkeypatch)
    forget()


def test_slurm_gets_a_script_and_its_tasks_give_the_same_bytes(data, tmp_path, jobs, monkeypatch):
    lam, root = data
    out = tmp_path / "slurm"
    assert submit(lam, root, out, tasks=2) == 0
    script, _ = jobs[0]
    for line in ("--partition=gpu", "--gpus=1", "--array=0-1", "--cpus-per-task=4", "--job-name=lara-label"):
        assert f"#SBATCH {line}" in script, script
    assert "launch_pickled_pipeline" in script and f"export PATH={tmp_path.parent}" not in script
    assert "export PATH=" in script and str(sys.prefix) in script
    finish = next((each, args) for each, args in jobs if "lara-label-finish" in each)
    assert any("--dependency=afterok:1" in arg for arg in finish[1])
    for rank in (0, 1):
        run_task(out, "label", rank, 2, monkeypatch)
    run_task(out, "finish", 0, 1, monkeypatch)
    label(lam, root, tmp_path / "local", options=LabelOptions(shard_frames=10))
    assert contents(out) == contents(tmp_path / "local")


def test_another_number_of_tasks_skips_nothing(data, tmp_path, jobs, monkeypatch):
    """datatrove counts a task as done by its number alone."""
    lam, root = data
    out = tmp_path / "slurm"
    submit(lam, root, out, tasks=2)
    run_task(out, "label", 0, 2, monkeypatch)
    assert submit(lam, root, out, tasks=5) == 0
    assert any("#SBATCH --array=0-4" in script for script, _ in jobs)
    for rank in range(5):
        run_task(out, "label", rank, 5, monkeypatch)
    run_task(out, "finish", 0, 1, monkeypatch)
    assert LatentLabels(out).manifest.valid == 5 * 6


def test_what_a_cluster_lacks_is_named(data, tmp_path, monkeypatch):
    lam, root = data
    with pytest.raises(ValueError, match="`partition` is missing"):
        label(lam, root, tmp_path / "a", executor="slurm")
    monkeypatch.setattr(executors, "_is_installed", lambda name: name != "ray")
    with pytest.raises(ValueError, match="needs the package ray"):
        label(lam, root, tmp_path / "b", executor="ray")
    monkeypatch.setattr(executors, "_is_installed", lambda name: name != "datatrove")
    with pytest.raises(ValueError, match=r"needs the package datatrove.*extra `label`"):
        label(lam, root, tmp_path / "c", executor="slurm")
    assert LabelPlan.read(tmp_path / "a").shards, "what was planned can be done another way"
