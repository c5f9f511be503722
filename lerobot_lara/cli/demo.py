"""`lara demo`: collect, train, evaluate and report on a small Meta-World study."""

import argparse
import logging
import signal
import sys
from pathlib import Path

from lerobot_lara.evaluation.demo import CONFIG_DIR, QUICK_SETTINGS, DemoSettings, run_demo
from lerobot_lara.evaluation.study.jobs import JobError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `lara demo`."""
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/demo"))
    parser.add_argument(
        "--resume",
        action="store_true",
        help="accept a finished run: do what is missing and write its report again",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="delete an earlier run in the output directory first"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a few steps on one task: checks that all runs, learns nothing"
    )
    parser.add_argument(
        "--config-dir", type=Path, default=CONFIG_DIR, help="directory with the training configurations"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the study; returns 1 if one of its commands failed."""
    # Ended like this, the process would otherwise leave its children running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        report = run_demo(
            args.output_dir,
            settings=QUICK_SETTINGS if args.quick else DemoSettings(),
            resume=args.resume,
            overwrite=args.overwrite,
            config_dir=args.config_dir,
        )
    except JobError as error:
        sys.stderr.write(f"\n{error}\n")
        return 1
    logging.info("Report: %s", report)
    return 0
