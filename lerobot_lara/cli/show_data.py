"""`lara show-data`: writes an HTML page that shows what a policy would train on."""

import argparse
import logging

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `lara show-data`."""
    parser.add_argument("data", help="a mixture file (.yaml), the folder of a LeRobotDataset, or a Hub id")
    parser.add_argument(
        "--out", help="the page, which replaces an earlier page (default: outputs/show_data/<name>.html)"
    )
    parser.add_argument("--policy", help="policy type (default: lara, or lara_lam if no dataset has actions)")
    gap = parser.add_mutually_exclusive_group()
    gap.add_argument(
        "--frame-gap",
        type=int,
        help="frames between o_t and o_{t+K} in every dataset (default: the mixture's gap, or the policy's default)",
    )
    gap.add_argument("--frame-gap-s", type=float, help="the frame gap in seconds")
    parser.add_argument(
        "--random-shift",
        type=int,
        default=0,
        help="show the policy's augmentation, with random shifts of up to this many pixels (default: 0)",
    )
    parser.add_argument(
        "--image-transforms",
        action="store_true",
        help="show LeRobot's augmentation with its default settings",
    )
    parser.add_argument(
        "--pairs", type=int, default=6, help="number of frame pairs to show from each dataset (default: 6)"
    )
    parser.add_argument(
        "--labels", help="latent labels of the dataset: show pairs whose latent actions are alike"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="random seed of the choice of pairs and of the augmentation (default: 0)",
    )


def run(args: argparse.Namespace) -> int:
    """Writes the page and returns 0."""
    # Imported here so that `lara show-data --help` does not load the data libraries.
    from lerobot_lara.evaluation.show_data.page import show_data

    page = show_data(
        args.data,
        out=args.out,
        policy=args.policy,
        frame_gap=args.frame_gap,
        frame_gap_s=args.frame_gap_s,
        random_shift=args.random_shift,
        image_transforms=args.image_transforms,
        pairs=args.pairs,
        labels=args.labels,
        seed=args.seed,
    )
    logger.info("Page: %s", page)
    return 0
