"""Who labels the shards: this process, several processes of this machine, or the tasks of Slurm or Ray.

Slurm and Ray are datatrove's executors. Each of their tasks takes every `tasks`-th shard, and skips those whose files
are there. That is not left to datatrove, which only knows the numbers of the tasks that have ended: with another number
of tasks it would skip shards that nobody has labeled.
"""

import multiprocessing
import os
import shlex
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lerobot_lara.labeling.finish import finish_labels
from lerobot_lara.labeling.shards import forget, label_shard

_POLL_S = 1.0


def label_here(folder: Path, shards: list[int], *, total_frames: int, workers: int) -> None:
    """Labels shards on this machine, with a progress bar.

    Args:
        folder: Folder of the labels, which holds the plan.
        shards: Numbers of the shards.
        total_frames: Frames of all of them, for the bar.
        workers: Processes; 1 is this one.
    """
    with tqdm(total=total_frames, desc="Labeling frames", unit="frame", smoothing=0) as bar:
        if workers <= 1 or len(shards) <= 1:
            try:
                for shard in shards:
                    bar.update(label_shard(folder, shard))
            finally:
                forget()
            return
        workers = min(workers, len(shards))
        threads = max(1, (os.cpu_count() or 1) // workers)
        with ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(os.getpid(), threads),
        ) as pool:
            futures = [pool.submit(label_shard, folder, shard) for shard in shards]
            try:
                for future in as_completed(futures):
                    bar.update(future.result())
            except BrokenProcessPool as error:
                raise ValueError(
                    "A labeling process was ended by the system, as happens when the memory is full. Run the same "
                    "command again, which goes on, with fewer --workers."
                ) from error
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise


def _start_worker(parent: int, threads: int) -> None:
    """Shares the cores, and ends this process when the one that started it is killed."""
    torch.set_num_threads(threads)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@dataclass(frozen=True)
class ClusterOptions:
    """How tasks of Slurm or Ray are started; see datatrove's executors.

    Args:
        tasks: Number of tasks.
        workers: Tasks that run at the same time; -1 for no limit.
        time: Slurm's time limit of a task.
        partition: Slurm's partition.
        cpus_per_task: Cores of a task.
        gpus_per_task: GPUs of a task.
        mem_per_cpu_gb: Memory for each core.
        env_command: Shell command by which a Slurm job finds this package.
    """

    tasks: int
    workers: int = -1
    time: str = "10:00:00"
    partition: str | None = None
    cpus_per_task: int = 4
    gpus_per_task: int = 0
    mem_per_cpu_gb: int = 4
    env_command: str | None = None

    def __post_init__(self) -> None:
        for name, holds, expected in (
            ("tasks", self.tasks >= 1, "at least 1"),
            ("workers", self.workers >= 1 or self.workers == -1, "at least 1, or -1 for no limit"),
            ("cpus_per_task", self.cpus_per_task >= 1, "at least 1"),
            ("gpus_per_task", self.gpus_per_task >= 0, "0 or more"),
            ("mem_per_cpu_gb", self.mem_per_cpu_gb >= 1, "at least 1 GB"),
        ):
            if not holds:
                raise ValueError(f"`{name}` is {getattr(self, name)!r}; it must be {expected}.")


def label_on_cluster(
    executor: str, folder: Path, *, shards: int, options: ClusterOptions, logs: Path
) -> None:
    """Labels shards with datatrove, and finishes the labels.

    With Slurm the jobs are only submitted, the last of which finishes; with Ray this waits for them and finishes here.

    Args:
        executor: "slurm" or "ray".
        folder: Folder of the labels, which holds the plan, on a file system that all tasks share.
        shards: Number of shards.
        options: How tasks are started.
        logs: Folder of datatrove's logs.

    Raises:
        ValueError: datatrove or Ray is missing, or an option that Slurm needs.
    """
    try:
        from datatrove.executor import RayPipelineExecutor, SlurmPipelineExecutor

        from lerobot_lara.labeling.pipeline import FinishLabels, LabelShards
    except ImportError as error:
        raise ValueError(
            f"`executor` is {executor!r}, which needs the package datatrove. Install this package with its extra "
            "`label`."
        ) from error
    if executor == "ray" and not _is_installed("ray"):
        raise ValueError(
            "`executor` is 'ray', which needs the package ray. Install it with `pip install ray`."
        )
    tasks = min(options.tasks, shards)
    label = [LabelShards(str(folder), shards)]
    if executor == "ray":
        RayPipelineExecutor(
            label,
            tasks=tasks,
            workers=options.workers,
            cpus_per_task=options.cpus_per_task,
            gpus_per_task=options.gpus_per_task,
            mem_per_cpu_gb=options.mem_per_cpu_gb,
            logging_dir=str(logs / "label"),
            skip_completed=False,
        ).run()
        finish_labels(folder)
        return
    if options.partition is None:
        raise ValueError(
            "`partition` is missing; it must be the Slurm partition of the jobs. Pass --partition."
        )
    common: dict[str, Any] = {
        "time": options.time,
        "partition": options.partition,
        "mem_per_cpu_gb": options.mem_per_cpu_gb,
        "env_command": options.env_command
        or f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH",
        "skip_completed": False,
        "mail_type": "NONE",
    }
    labeling = SlurmPipelineExecutor(
        label,
        tasks=tasks,
        workers=options.workers,
        cpus_per_task=options.cpus_per_task,
        gpus_per_task=options.gpus_per_task,
        job_name="lara-label",
        logging_dir=str(logs / "label"),
        **common,
    )
    SlurmPipelineExecutor(
        [FinishLabels(str(folder))],
        tasks=1,
        cpus_per_task=options.cpus_per_task,
        job_name="lara-label-finish",
        logging_dir=str(logs / "finish"),
        depends=labeling,
        **common,
    ).run()


def _is_installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None
