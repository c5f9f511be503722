"""`lara show-data`: one HTML page that shows what a policy would train on."""

import argparse
import logging

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `lara show-data`."""
    parser.add_argument("data", help="a mixture file (.yaml), the folder of a LeRobotDataset, or a Hub id")
    parser.add_argument(
        "--out", help="the page; an earlier page is replaced (default: outputs/show_data/<name>.html)"
    )
    parser.add_argument(
        "--policy", help="policy type (default: lara, or lara_lam where no dataset has actions)"
    )
    gap = parser.add_mutually_exclusive_group()
    gap.add_argument(
        "--frame-gap",
        type=int,
        help="frames between o_t and o_{t+K} in every dataset (default: the mixture's gap, else the policy's default)",
    )
    gap.add_argument("--frame-gap-s", type=float, help="the same in seconds")
    parser.add_argument(
        "--random-shift",
        type=int,
        default=0,
        help="show the policy's augmentation with shifts of up to this many pixels",
    )
    parser.add_argument(
        "--image-transforms",
        action="store_true",
        help="show LeRobot's augmentation with its default settings",
    )
    parser.add_argument(
        "--pairs", type=int, default=6, help="frame pairs to show of each dataset (default: 6)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the choice of pairs and of the augmentation (default: 0)"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the page."""
    # Imported here, as `lara show-data --help` would otherwise load the data libraries.
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
        seed=args.seed,
    )
    logger.info("Page: %s", page)
    return 0
