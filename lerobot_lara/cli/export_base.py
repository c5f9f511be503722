"""`lara export-base`: writes the policy of an aligned checkpoint without its latent action model."""

import argparse
import logging

from lerobot_lara.cli.export_lam import add_arguments

__all__ = ["add_arguments", "run"]

logger = logging.getLogger(__name__)


def run(args: argparse.Namespace) -> int:
    """Writes the checkpoint and returns 0."""
    from lerobot_lara.publish.export import export_base

    export_base(args.checkpoint, args.directory)
    logger.info("Wrote %s", args.directory)
    return 0
