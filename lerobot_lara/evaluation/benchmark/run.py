"""Runs a benchmark: a cell for each agent and task, in parallel processes, and then its results and report."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from lerobot_lara.cluster.executors import ClusterOptions, require_cluster, run_on_cluster
from lerobot_lara.evaluation.benchmark.agents import EXPERT, ZERO
from lerobot_lara.evaluation.benchmark.cell import CELL, PROGRESS
from lerobot_lara.evaluation.benchmark.report import PAGE, write_report
from lerobot_lara.evaluation.benchmark.results import collect_results
from lerobot_lara.evaluation.benchmark.suites import Suite
from lerobot_lara.evaluation.study.jobs import Job, check_records, run_jobs
from lerobot_lara.files.atomic import write_json
from lerobot_lara.policy.checkpoint_files import download_checkpoint

JOBS = "jobs"
_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class Benchmark:
    """What is run.

    Args:
        suite: The environment and its tasks.
        policies: Name in the table -> checkpoint folder or Hub name.
        episodes: Episodes per task and agent.
        seed: Seed of the first episode; the others follow. All agents meet the same episodes.
        flags: Further flags of `lerobot-eval`, for all cells.
        policy_flags: Further flags for the cells of policies, such as `--policy.n_action_steps=4`.
        zero: Whether a robot that does nothing is evaluated too.
        expert: Whether the scripted expert is evaluated too, where there is one.
    """

    suite: Suite
    policies: dict[str, str]
    episodes: int
    seed: int = 1000
    flags: tuple[str, ...] = ()
    policy_flags: tuple[str, ...] = ()
    zero: bool = True
    expert: bool = True

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ValueError(f"`episodes` is {self.episodes}; it must be at least 1.")
        if not self.agents:
            raise ValueError(
                "`policies` is empty, and there is neither an expert nor the robot that does nothing: nobody plays. "
                "Name a checkpoint."
            )
        for name in self.policies:
            if name in (ZERO, EXPERT) or not _NAME.fullmatch(name):
                raise ValueError(
                    f"`policies` has the name {name!r}; it must consist of letters, digits, '.', '_' and '-', and be "
                    f"neither {ZERO!r} nor {EXPERT!r}. Write NAME=CHECKPOINT."
                )

    @property
    def agents(self) -> tuple[str, ...]:
        """Names of everything that plays: the policies, then the anchors."""
        anchors = [
            *([EXPERT] if self.expert and self.suite.has_expert else []),
            *([ZERO] if self.zero else []),
        ]
        return (*self.policies, *anchors)


def run_benchmark(benchmark: Benchmark, output_dir: Path, *, workers: int = 2) -> Path:
    """Runs the cells that are not done yet, and writes `results.json`, `table.md` and `report.html`.

    Args:
        benchmark: What to run.
        output_dir: Folder of the benchmark; an interrupted run resumes.
        workers: Number of cells that run at the same time, each in one process with one thread.

    Returns:
        Path of the report.

    Raises:
        ValueError: A setting is out of range, the Hub does not give a policy, or the folder holds a benchmark with
            other settings.
        lerobot_lara.evaluation.study.jobs.JobError: A cell failed; the message has the end of its log.
    """
    if workers < 1:
        raise ValueError(f"`workers` is {workers}; it must be at least 1.")
    output_dir = output_dir.resolve()
    jobs = list_jobs(with_local_policies(benchmark), output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    # Not offline: encoders and tokenizers that a checkpoint names are on the Hub.
    run_jobs(jobs, state_dir=output_dir / JOBS, num_parallel=workers, offline=False)
    return report_benchmark(benchmark, output_dir)


def run_benchmark_on_cluster(
    benchmark: Benchmark, output_dir: Path, *, executor: str, options: ClusterOptions
) -> Path | None:
    """Has the cells played by the tasks of Slurm or Ray, the n-th by every n-th task.

    With Slurm the tasks are only submitted, the last of which writes the report. The same command goes on with what is
    not done, also with another number of tasks, once none of them runs any more.

    Args:
        benchmark: What to run.
        output_dir: Folder of the benchmark, on a file system that all tasks share.
        executor: "slurm" or "ray".
        options: How tasks are started.

    Returns:
        Path of the report; None if it will be written later.

    Raises:
        ValueError: As for `run_benchmark`, or the cluster lacks something.
    """
    require_cluster(executor, options)
    from lerobot_lara.evaluation.benchmark.pipeline import PlayCells, ReportBenchmark

    output_dir = output_dir.resolve()
    local = with_local_policies(benchmark)
    jobs = list_jobs(local, output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    check_records(jobs, output_dir / JOBS)
    run_on_cluster(
        executor,
        PlayCells(local, output_dir),
        ReportBenchmark(benchmark, output_dir),
        pieces=len(jobs),
        options=options,
        name="lara-benchmark",
        logs=output_dir / "logs",
    )
    return output_dir / PAGE if executor == "ray" else None


def play_cells(benchmark: Benchmark, output_dir: Path, *, rank: int, world_size: int) -> None:
    """Plays what is not done of every `world_size`-th cell, from the `rank`-th."""
    jobs = list_jobs(benchmark, output_dir)[rank::world_size]
    run_jobs(jobs, state_dir=output_dir / JOBS, num_parallel=1, offline=False, exclusive=False)


def report_benchmark(benchmark: Benchmark, output_dir: Path) -> Path:
    """Writes the results and the report of a benchmark whose cells are played; returns the report's path."""
    results = collect_results(benchmark, output_dir)
    write_json(output_dir / "results.json", results)
    return write_report(results, output_dir)


def with_local_policies(benchmark: Benchmark) -> Benchmark:
    """Downloads the policies from the Hub, so that all cells play the same version of each.

    Raises:
        ValueError: The Hub does not give one.
    """
    local = {}
    for name, checkpoint in benchmark.policies.items():
        try:
            local[name] = str(download_checkpoint(checkpoint))
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise ValueError(
                f"`policies` has {checkpoint!r}, which is no folder, and the Hub does not give it: {error} Check "
                "the name, or the connection."
            ) from error
    return replace(benchmark, policies=local)


def list_jobs(benchmark: Benchmark, output_dir: Path) -> list[Job]:
    """The job of each cell: task by task, so that what can be compared is done early."""
    return [
        _job(benchmark, output_dir, agent, task)
        for task in benchmark.suite.tasks
        for agent in benchmark.agents
    ]


def cell_folder(output_dir: Path, agent: str, task: str) -> Path:
    """Folder of a cell."""
    return output_dir / "cells" / agent / task


def _job(benchmark: Benchmark, output_dir: Path, agent: str, task: str) -> Job:
    folder = cell_folder(output_dir, agent, task)
    suite, checkpoint = benchmark.suite, benchmark.policies.get(agent)
    who: Sequence[str] = (f"--agent={agent}",)
    if checkpoint is not None:
        who = ("--agent=policy", f"--policy.path={checkpoint}", *benchmark.policy_flags)
    command = (
        *("python", "-m", "lerobot_lara.evaluation.benchmark.cell", *who),
        *(f"--env.type={suite.env_type}", f"--env.task={task}", *suite.env_flags, *benchmark.flags),
        *(f"--eval.n_episodes={benchmark.episodes}", "--eval.batch_size=1"),
        *(f"--seed={benchmark.seed}", f"--output_dir={folder}"),
    )
    files = [] if checkpoint is None else sorted(Path(checkpoint).glob("*.*"))
    return Job(
        f"{agent}.{task}",
        f"{agent} on {task}",
        command,
        folder,
        folder / CELL,
        inputs=tuple(file for file in files if file.suffix in (".json", ".safetensors")),
        progress=PROGRESS,
        # The command goes on with the episodes that are there.
        resume=functools.partial(tuple, command),
    )
