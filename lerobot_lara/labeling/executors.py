"""Who labels the shards: this process, several processes of this machine, or the tasks of Slurm or Ray.

Each task of a cluster takes every `tasks`-th shard, and skips those whose files are there.
"""

import multiprocessing
import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch
from tqdm import tqdm

from lerobot_lara.cluster.executors import ClusterOptions, require_cluster, run_on_cluster
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
    require_cluster(executor, options)
    from lerobot_lara.labeling.pipeline import FinishLabels, LabelShards

    run_on_cluster(
        executor,
        LabelShards(str(folder), shards),
        FinishLabels(str(folder)),
        pieces=shards,
        options=options,
        name="lara-label",
        logs=logs,
    )
