"""`lara upgrade-dataset`: converts a LeRobot dataset from format v2.0 or v2.1 to v3.0."""

import argparse
import logging

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `lara upgrade-dataset`."""
    parser.add_argument("source", help="folder of the dataset, or its id on the Hub; it is not changed")
    parser.add_argument(
        "directory", help="folder to write; after an interruption, run the same command again"
    )
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument(
        "--verify",
        choices=["all", "sample", "none"],
        help="compare with the original all images, three images of at most 200 episodes each, or nothing; all and "
        "sample also compare all numbers, timestamps and tasks (default: all for up to 20000 frames, otherwise sample)",
    )
    parser.add_argument(
        "--video-file-size",
        type=int,
        default=200,
        metavar="MB",
        help="approximate size of the video files into which episodes are joined (default: 200)",
    )


def run(args: argparse.Namespace) -> int:
    """Upgrades the dataset, logs how to train on it and returns 0."""
    from lerobot_lara.data.upgrade.upgrade_dataset import upgrade_dataset

    root = upgrade_dataset(
        args.source,
        args.directory,
        revision=args.revision,
        verify=args.verify,
        video_file_size_in_mb=args.video_file_size,
    )
    logger.info("Train on it with --dataset.repo_id=local/%s --dataset.root=%s", root.name, root)
    return 0
