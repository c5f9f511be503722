"""The arguments of commands whose work Slurm or Ray can do."""

import argparse

from lerobot_lara.cluster.executors import EXECUTORS, ClusterOptions


def add_cluster_arguments(
    parser: argparse.ArgumentParser, *, tasks: str = "--tasks", default: int | None = 1
) -> None:
    """Adds `--executor`, and what Slurm and Ray need.

    Args:
        parser: The command's parser.
        tasks: Flag for the number of tasks.
        default: Number of tasks if none is given; None for one task for each piece of work.
    """
    parser.add_argument(
        "--executor",
        choices=["local", *EXECUTORS],
        default="local",
        help="who does it: processes of this machine, or datatrove's tasks on a cluster (default: local)",
    )
    cluster = parser.add_argument_group("Slurm and Ray")
    cluster.add_argument(
        tasks,
        dest="num_tasks",
        metavar="N",
        type=int,
        default=default,
        help=f"number of tasks (default: {'one for each piece of work' if default is None else default})",
    )
    cluster.add_argument(
        "--parallel-tasks",
        metavar="N",
        type=int,
        default=-1,
        help="tasks at the same time (default: no limit)",
    )
    cluster.add_argument("--partition", help="Slurm's partition")
    cluster.add_argument(
        "--time", default="10:00:00", help="Slurm's time limit of a task (default: 10:00:00)"
    )
    cluster.add_argument("--cpus-per-task", type=int, default=4, help="cores of a task (default: 4)")
    cluster.add_argument("--gpus-per-task", type=int, default=0, help="GPUs of a task (default: 0)")
    cluster.add_argument("--mem-per-cpu-gb", type=int, default=4, help="memory per core (default: 4)")
    cluster.add_argument(
        "--env-command",
        help="shell command by which a Slurm job finds this package (default: this environment's)",
    )


def cluster_options(args: argparse.Namespace) -> ClusterOptions:
    """The options that were given; raises a ValueError if one is out of range."""
    return ClusterOptions(
        tasks=args.num_tasks,
        workers=args.parallel_tasks,
        time=args.time,
        partition=args.partition,
        cpus_per_task=args.cpus_per_task,
        gpus_per_task=args.gpus_per_task,
        mem_per_cpu_gb=args.mem_per_cpu_gb,
        env_command=args.env_command,
    )
