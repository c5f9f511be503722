"""Gives a step of datatrove to the tasks of Slurm or Ray, and then a last step to one of them.

What a task skips because it is done is the step's business. That is not left to datatrove, which only knows the numbers
of the tasks that have ended: with another number of tasks it would skip what nobody has done.
"""

import shlex
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datatrove.pipeline.base import PipelineStep

EXECUTORS = ("slurm", "ray")


@dataclass(frozen=True)
class ClusterOptions:
    """How tasks of Slurm or Ray are started; see datatrove's executors.

    Args:
        tasks: Number of tasks; None for one for each piece of work.
        workers: Tasks that run at the same time; -1 for no limit.
        time: Slurm's time limit of a task.
        partition: Slurm's partition.
        cpus_per_task: Cores of a task.
        gpus_per_task: GPUs of a task.
        mem_per_cpu_gb: Memory for each core.
        env_command: Shell command by which a Slurm job finds this package.
    """

    tasks: int | None = None
    workers: int = -1
    time: str = "10:00:00"
    partition: str | None = None
    cpus_per_task: int = 4
    gpus_per_task: int = 0
    mem_per_cpu_gb: int = 4
    env_command: str | None = None

    def __post_init__(self) -> None:
        for name, holds, expected in (
            ("tasks", self.tasks is None or self.tasks >= 1, "at least 1"),
            ("workers", self.workers >= 1 or self.workers == -1, "at least 1, or -1 for no limit"),
            ("cpus_per_task", self.cpus_per_task >= 1, "at least 1"),
            ("gpus_per_task", self.gpus_per_task >= 0, "0 or more"),
            ("mem_per_cpu_gb", self.mem_per_cpu_gb >= 1, "at least 1 GB"),
        ):
            if not holds:
                raise ValueError(f"`{name}` is {getattr(self, name)!r}; it must be {expected}.")


def require_cluster(executor: str, options: ClusterOptions) -> None:
    """Checks that there is what an executor needs.

    Raises:
        ValueError: datatrove or Ray is missing, or an option that Slurm needs.
    """
    if not _is_installed("datatrove"):
        raise ValueError(
            f"`executor` is {executor!r}, which needs the package datatrove. Install this package with its extra "
            "`label`."
        )
    if executor == "ray" and not _is_installed("ray"):
        raise ValueError(
            "`executor` is 'ray', which needs the package ray. Install it with `pip install ray`."
        )
    if executor == "slurm" and options.partition is None:
        raise ValueError(
            "`partition` is missing; it must be the Slurm partition of the jobs. Pass --partition."
        )


def run_on_cluster(
    executor: str,
    work: "PipelineStep",
    last: "PipelineStep",
    *,
    pieces: int,
    options: ClusterOptions,
    name: str,
    logs: Path,
) -> None:
    """Runs a step in tasks, and a last step after them.

    With Slurm both are only submitted; with Ray this waits for the tasks, and does the last step here.

    Args:
        executor: "slurm" or "ray".
        work: Done by every task, with its `rank` and the number of tasks as `world_size`.
        last: Done once, after all tasks have ended well.
        pieces: Pieces of work; there are no more tasks than that.
        options: How tasks are started.
        name: Name of Slurm's job; that of the last step has "-finish" added.
        logs: Folder of datatrove's logs, on a file system that all tasks share.

    Raises:
        ValueError: See `require_cluster`.
    """
    require_cluster(executor, options)
    from datatrove.executor import RayPipelineExecutor, SlurmPipelineExecutor

    tasks = min(options.tasks or pieces, pieces)
    # Without "lara-": the folder is that of the command.
    work_logs = str(logs / name.removeprefix("lara-"))
    if executor == "ray":
        RayPipelineExecutor(
            [work],
            tasks=tasks,
            workers=options.workers,
            cpus_per_task=options.cpus_per_task,
            gpus_per_task=options.gpus_per_task,
            mem_per_cpu_gb=options.mem_per_cpu_gb,
            logging_dir=work_logs,
            skip_completed=False,
        ).run()
        last.run(None)
        return
    common: dict[str, Any] = {
        "time": options.time,
        "partition": options.partition,
        "mem_per_cpu_gb": options.mem_per_cpu_gb,
        "cpus_per_task": options.cpus_per_task,
        "env_command": options.env_command
        or f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH",
        "skip_completed": False,
        "mail_type": "NONE",
    }
    working = SlurmPipelineExecutor(
        [work],
        tasks=tasks,
        workers=options.workers,
        gpus_per_task=options.gpus_per_task,
        job_name=name,
        logging_dir=work_logs,
        **common,
    )
    SlurmPipelineExecutor(
        [last],
        tasks=1,
        job_name=f"{name}-finish",
        logging_dir=str(logs / "finish"),
        depends=working,
        **common,
    ).run()


def _is_installed(name: str) -> bool:
    return find_spec(name) is not None
