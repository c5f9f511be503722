"""`lara probe`: measures whether latent actions are meaningful, and writes a report."""

import argparse
import logging

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `lara probe`."""
    parser.add_argument(
        "checkpoints",
        nargs="+",
        metavar="checkpoint",
        help="a lara_lam or lara checkpoint, as a folder or Hub id, or a folder of labels; several are "
        "compared with the first",
    )
    parser.add_argument(
        "--dataset",
        required=True,
        help="a LeRobotDataset, as a folder or Hub id, with or without actions; preferably one that no checkpoint was "
        "trained on; for labels, the one that was labeled",
    )
    parser.add_argument(
        "--out",
        help="folder of the report, which replaces an earlier report (default: outputs/probe/<name of the dataset>)",
    )
    parser.add_argument(
        "--camera", help="camera of the dataset (default: the one that the checkpoints were trained on)"
    )
    parser.add_argument("--device", help="cpu or cuda (default: cuda if available)")
    parser.add_argument(
        "--max-pairs",
        type=int,
        default=4000,
        help="largest number of frame pairs, spread evenly over the episodes (default: 4000)",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Writes the report and returns 0."""
    # Imported here so that `lara probe --help` does not load torch and the data libraries.
    from lerobot_lara.evaluation.probe.run import probe

    page = probe(
        args.checkpoints,
        dataset=args.dataset,
        out=args.out,
        camera=args.camera,
        device=args.device,
        max_pairs=args.max_pairs,
        seed=args.seed,
    )
    logger.info("Report: %s", page)
    return 0
