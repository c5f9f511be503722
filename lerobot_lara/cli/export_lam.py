"""`lara export-lam`: writes the latent action model of a `lara` checkpoint as a `lara_lam` checkpoint."""

import argparse
import logging

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `lara export-lam` and `lara export-base`."""
    parser.add_argument("checkpoint", help="folder or Hub id of a `lara` policy")
    parser.add_argument("directory", help="folder to write; it must not exist yet")


def run(args: argparse.Namespace) -> int:
    """Writes the checkpoint and returns 0."""
    from lerobot_lara.publish.export import export_lam

    export_lam(args.checkpoint, args.directory)
    logger.info("Wrote %s", args.directory)
    return 0
