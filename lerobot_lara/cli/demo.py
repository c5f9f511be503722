"""`lara demo`: runs a small Meta-World study, from collecting data to the report."""

import argparse
import logging
import signal
import sys
from pathlib import Path

from lerobot_lara.evaluation.demo import CONFIG_DIR, QUICK_SETTINGS, DemoSettings, run_demo
from lerobot_lara.evaluation.study.jobs import JobError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `lara demo`."""
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path("outputs/demo"),
        help="folder of the study (default: outputs/demo)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="accept a finished run: do what is missing, and write the report again",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="first delete an earlier run in the output folder"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a few steps on one task, to check that everything runs; nothing is learned",
    )
    parser.add_argument(
        "--config-dir", type=Path, default=CONFIG_DIR, help="folder with the training configurations"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the study; returns 0, or 1 if one of its commands failed."""
    # Otherwise a process that is terminated would leave its children running.
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
