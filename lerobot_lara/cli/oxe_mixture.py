"""`lara oxe-mixture`: writes a mixture file of Open X-Embodiment datasets."""

import argparse
import logging

from lerobot_lara.data.oxe import DEFAULT_FRAME_GAP_S, oxe_mixtures, write_oxe_mixture

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `lara oxe-mixture`."""
    parser.add_argument("name", help=f"set of datasets and weights: {', '.join(oxe_mixtures())}")
    parser.add_argument("path", help="YAML file to write")
    parser.add_argument("--only", help="names of datasets separated by commas (default: the whole mixture)")
    parser.add_argument(
        "--frame-gap-s",
        type=float,
        default=DEFAULT_FRAME_GAP_S,
        help=f"seconds between the two frames of a latent action (default: {DEFAULT_FRAME_GAP_S:g})",
    )
    parser.add_argument(
        "--root",
        help="folder with the upgraded datasets, each in a folder of its name; a relative path starts at the YAML file "
        "(default: where LeRobot looks)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a file with other content")


def run(args: argparse.Namespace) -> int:
    """Writes the file and returns 0."""
    path = write_oxe_mixture(
        args.name,
        args.path,
        only=None if args.only is None else [name.strip() for name in args.only.split(",")],
        frame_gap_s=args.frame_gap_s,
        root=args.root,
        overwrite=args.overwrite,
    )
    logger.info("Wrote %s", path)
    return 0
