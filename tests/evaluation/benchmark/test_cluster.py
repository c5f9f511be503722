"""A benchmark whose cells are played by tasks of Slurm or Ray; the cells are commands that play nothing."""

import json

import pytest
from filelock import FileLock
from support import slurm

from lerobot_lara.cli import main
from lerobot_lara.cluster import executors
from lerobot_lara.cluster.executors import ClusterOptions
from lerobot_lara.evaluation.benchmark import run
from lerobot_lara.evaluation.benchmark.cell import CELL
from lerobot_lara.evaluation.benchmark.run import Benchmark, run_benchmark, run_benchmark_on_cluster
from lerobot_lara.evaluation.benchmark.suites import SUITES
from lerobot_lara.evaluation.study.jobs import Job, JobError

pytest.importorskip("datatrove", reason="needs the extra `label`")
SUITE = SUITES["metaworld-mt5"].only("faucet-open-v3,plate-slide-v3")
ON_SLURM = ["--executor=slurm", "--partition=cpu", "--no-expert", "--episodes=1"]


@pytest.fixture
def played(monkeypatch, tmp_path):
    """The cells that have been played, in order; one of "broken" fails as long as `tmp_path / "broken"` exists."""
    log = tmp_path / "played"

    def job(benchmark, output_dir, agent, task):
        folder = run.cell_folder(output_dir, agent, task)
        cell = {"task": task, "agent": agent, "remark": None}
        cell["episodes"] = [{"seed": benchmark.seed, "success": agent == "good", "steps": 3, "reached": {}}]
        code = (
            "import os, pathlib, sys; assert 'HF_HUB_OFFLINE' not in os.environ\n"
            "name, log, folder, cell, broken = sys.argv[1:]\n"
            "assert 'broken' not in name or not pathlib.Path(broken).exists()\n"
            "with open(log, 'a') as file: file.write(name + '\\n')\n"
            "pathlib.Path(folder).mkdir(parents=True); (pathlib.Path(folder) / 'cell.json').write_text(cell)"
        )
        given = (f"{agent}.{task}", str(log), str(folder), json.dumps(cell), str(tmp_path / "broken"))
        return Job(f"{agent}.{task}", agent, ("python", "-c", code, *given), folder, folder / CELL)

    monkeypatch.setattr(run, "_job", job)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    return lambda: log.read_text().split() if log.exists() else []


@pytest.fixture
def benchmark(tmp_path):
    policies = {name: str(tmp_path / name) for name in ("good", "bad")}
    for folder in policies.values():
        (tmp_path / folder).mkdir()
    return Benchmark(SUITE, policies, episodes=1, expert=False)


def test_slurms_tasks_share_the_cells_and_the_last_one_reports(benchmark, played, tmp_path, monkeypatch):
    scripts = slurm.capture_scripts(monkeypatch)
    out = tmp_path / "out"
    named = [f"{name}={path}" for name, path in benchmark.policies.items()]
    tasks = f"--tasks={','.join(SUITE.tasks)}"
    command = ["benchmark", *named, "--suite=metaworld-mt5", tasks, f"--out={out}", *ON_SLURM]
    assert main([*command, "--cluster-tasks=4", "--parallel-tasks=2", "--gpus-per-task=1"]) == 0
    assert "#SBATCH --array=0-3%2" in scripts[0][0] and "#SBATCH --gpus=1" in scripts[0][0]
    assert "#SBATCH --job-name=lara-benchmark" in scripts[0][0] and played() == []
    (out / "jobs").mkdir()
    with FileLock(out / "jobs.lock"):  # as if another task ran at the same time
        for rank in range(4):
            slurm.run_task(out / "logs" / "benchmark", rank, 4, monkeypatch)
    cells = [f"{agent}.{task}" for task in SUITE.tasks for agent in benchmark.agents]
    assert sorted(played()) == sorted(cells) and played()[:2] == [cells[0], cells[4]]
    assert not (out / "report.html").exists()
    slurm.run_task(out / "logs" / "finish", 0, 1, monkeypatch)
    run_benchmark(benchmark, tmp_path / "local")
    for name in ("results.json", "report.html", "table.md"):
        assert (out / name).read_text() == (tmp_path / "local" / name).read_text(), name
    assert main(command) == 0
    assert any("#SBATCH --array=0-5" in script for script, _ in scripts), "one task for each cell"


def test_what_has_failed_is_played_by_another_number_of_tasks(benchmark, played, tmp_path, monkeypatch):
    slurm.capture_scripts(monkeypatch)
    out = tmp_path / "out"
    benchmark.policies["broken"] = benchmark.policies.pop("bad")
    (tmp_path / "broken").touch()

    def submit(tasks):
        options = ClusterOptions(tasks=tasks, partition="cpu")
        assert run_benchmark_on_cluster(benchmark, out, executor="slurm", options=options) is None

    submit(2)
    with pytest.raises(JobError, match="broken failed"):
        slurm.run_task(out / "logs" / "benchmark", 1, 2, monkeypatch)
    (tmp_path / "broken").unlink()
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    submit(3)
    for rank in range(3):
        slurm.run_task(out / "logs" / "benchmark", rank, 3, monkeypatch)
    assert len(played()) == 6 and len(set(played())) == 6
    with pytest.raises(ValueError, match="was made with other settings"):
        run_benchmark_on_cluster(
            Benchmark(SUITE, benchmark.policies, episodes=1, expert=False, seed=7),
            out,
            executor="slurm",
            options=ClusterOptions(tasks=1, partition="cpu"),
        )


def test_ray_waits_and_reports_here(benchmark, played, tmp_path, monkeypatch):
    class Executor:
        def __init__(self, pipeline, *, tasks, **options):
            self.pipeline, self.tasks = pipeline, tasks

        def run(self):
            for rank in range(self.tasks):
                self.pipeline[0].run(None, rank=rank, world_size=self.tasks)

    monkeypatch.setattr("datatrove.executor.RayPipelineExecutor", Executor)
    monkeypatch.setattr(executors, "_is_installed", lambda name: True)
    options = ClusterOptions(tasks=50)
    page = run_benchmark_on_cluster(benchmark, tmp_path / "out", executor="ray", options=options)
    assert page == tmp_path / "out" / "report.html" and "good" in page.read_text()
    assert len(played()) == 6


def test_what_slurm_needs_is_asked_for_before_anything_is_downloaded(tmp_path, capsys):
    arguments = [
        "benchmark",
        "no/such",
        "--suite=metaworld-mt5",
        "--executor=slurm",
        f"--out={tmp_path / 'a'}",
    ]
    assert main(arguments) == 2
    assert "`partition` is missing" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
