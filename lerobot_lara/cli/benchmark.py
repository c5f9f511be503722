"""`lara benchmark`: evaluates policies on a suite of simulated tasks, and writes a report."""

import argparse
import logging
import sys
from pathlib import Path

from lerobot_lara.cli.cluster_arguments import add_cluster_arguments, cluster_options
from lerobot_lara.evaluation.benchmark.run import Benchmark, run_benchmark, run_benchmark_on_cluster
from lerobot_lara.evaluation.benchmark.suites import SUITES, custom_suite
from lerobot_lara.evaluation.study.jobs import JobError

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `lara benchmark`."""
    parser.add_argument(
        "policies",
        nargs="*",
        metavar="[NAME=]CHECKPOINT",
        help="checkpoints, as folders or names on the Hub; NAME is shown in the table (default: policy, policy_2, ...)",
    )
    suite = parser.add_mutually_exclusive_group(required=True)
    suite.add_argument("--suite", choices=list(SUITES), help="the tasks")
    suite.add_argument("--env", metavar="TYPE", help="any environment type of lerobot-eval, with --tasks")
    parser.add_argument("--tasks", help="some tasks of the suite, or those of --env, separated by commas")
    parser.add_argument("--episodes", type=int, help="episodes per task (default: the suite's)")
    parser.add_argument(
        "--seed", type=int, default=1000, help="seed of the first episode; the others follow (default: 1000)"
    )
    parser.add_argument("--out", type=Path, help="folder to write (default: outputs/benchmark/<suite>)")
    parser.add_argument("--workers", type=int, default=2, help="cells that run at the same time (default: 2)")
    parser.add_argument("--no-zero", action="store_true", help="leave out the robot that does nothing")
    parser.add_argument("--no-expert", action="store_true", help="leave out the scripted expert")
    parser.add_argument(
        "--flag",
        action="append",
        default=[],
        metavar="--NAME=VALUE",
        help="a flag of lerobot-eval, such as --flag=--env.image_width=128 or --flag=--policy.n_action_steps=4; may be "
        "repeated",
    )
    add_cluster_arguments(parser, tasks="--cluster-tasks", default=None)


def run(args: argparse.Namespace) -> int:
    """Runs the benchmark; returns 0, or 1 if a cell failed."""
    try:
        return _run(args)
    except JobError as error:
        sys.stderr.write(f"\n{error}\n")
        return 1


def _run(args: argparse.Namespace) -> int:
    suite = SUITES[args.suite].only(args.tasks) if args.suite else custom_suite(args.env, args.tasks)
    bad = [flag for flag in args.flag if not flag.startswith("--") or "=" not in flag]
    if bad:
        raise ValueError(f"`flag` is {bad[0]!r}; it must be such as --flag=--env.image_width=128.")
    benchmark = Benchmark(
        suite,
        _named(args.policies),
        episodes=suite.episodes if args.episodes is None else args.episodes,
        seed=args.seed,
        flags=tuple(flag for flag in args.flag if not flag.startswith("--policy.")),
        policy_flags=tuple(flag for flag in args.flag if flag.startswith("--policy.")),
        zero=not args.no_zero,
        expert=not args.no_expert,
    )
    output_dir = args.out or Path("outputs") / "benchmark" / (args.suite or args.env)
    if args.executor == "local":
        page: Path | None = run_benchmark(benchmark, output_dir, workers=args.workers)
    else:
        page = run_benchmark_on_cluster(
            benchmark, output_dir, executor=args.executor, options=cluster_options(args)
        )
    if page is None:
        logger.info("%s: the tasks are submitted; the last one writes report.html.", output_dir)
        return 0
    logger.info("%s\n%s", (page.parent / "table.md").read_text(), page)
    return 0


def _named(policies: list[str]) -> dict[str, str]:
    """Name -> checkpoint; a local one is named by its whole path."""
    named: dict[str, str] = {}
    for number, text in enumerate(policies, start=1):
        name, sign, checkpoint = text.partition("=")
        if not sign or Path(text).exists():  # a folder's name may have the sign
            name, checkpoint = "", text
        name = name or ("policy" if number == 1 else f"policy_{number}")
        if name in named:
            raise ValueError(
                f"`policies` has the name {name!r} twice; each needs its own. Write NAME=CHECKPOINT."
            )
        named[name] = str(Path(checkpoint).resolve()) if Path(checkpoint).exists() else checkpoint
    return named
