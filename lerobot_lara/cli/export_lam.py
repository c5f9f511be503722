"""`lara export-lam <lara checkpoint> <directory>`."""

import argparse
import logging

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="folder or Hub id of a `lara` policy")
    parser.add_argument("directory", help="folder to write; must not exist yet")


def run(args: argparse.Namespace) -> int:
    from lerobot_lara.publish.export import export_lam

    export_lam(args.checkpoint, args.directory)
    logger.info("Wrote %s", args.directory)
    return 0
