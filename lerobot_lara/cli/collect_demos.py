"""`lara collect-demos`: records demonstrations of scripted experts into a LeRobotDataset."""

import argparse
import logging

from lerobot_lara.data.collect_demos import collect_demos
from lerobot_lara.envs.demonstration_sources import SOURCES

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `lara collect-demos`."""
    parser.add_argument(
        "--env", default="metaworld", choices=list(SOURCES), help="the simulator (default: metaworld)"
    )
    parser.add_argument(
        "--tasks",
        required=True,
        help="tasks or groups of tasks, separated by commas, such as drawer-open-v3,reach-v3 of metaworld, or "
        "widowx_carrot_on_plate or widowx of simpler",
    )
    parser.add_argument("--episodes", type=int, required=True, help="number of episodes per task")
    parser.add_argument("--repo-id", required=True, help="name of the dataset, user/name")
    parser.add_argument("--root", help="folder of the dataset (default: $HF_LEROBOT_HOME/<repo_id>)")
    parser.add_argument(
        "--image-size",
        type=image_size,
        metavar="N or HxW",
        help="height and width in pixels (default: 128 for metaworld and libero, 192x256 for simpler)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="random seed; datasets with different seeds share no starting position (default: 0)",
    )
    parser.add_argument(
        "--storage",
        choices=["image", "video"],
        default="image",
        help="how frames are stored: lossless and fast to read, or small (default: image)",
    )
    parser.add_argument(
        "--action-free",
        action="store_true",
        help="write only frames and instructions, without actions and states",
    )
    parser.add_argument(
        "--steps-after-success",
        type=int,
        help="steps recorded after the task is solved (default: 10 for metaworld, 3 for simpler, 5 for libero)",
    )
    parser.add_argument("--workers", type=int, default=1, help="number of simulator processes (default: 1)")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="replace an existing dataset")
    existing.add_argument("--resume", action="store_true", help="continue an interrupted run")


def image_size(text: str) -> tuple[int, int]:
    """Reads a height and width: "128", or "96x128".

    Raises:
        argparse.ArgumentTypeError: The text is neither.
    """
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size; it must be such as 128, or 96x128 (height x width)"
        )
    return int(parts[0]), int(parts[-1])


def run(args: argparse.Namespace) -> int:
    """Records the demonstrations and returns 0."""
    root = collect_demos(
        tasks=args.tasks,
        episodes=args.episodes,
        repo_id=args.repo_id,
        env=args.env,
        root=args.root,
        image_size=args.image_size,
        seed=args.seed,
        storage=args.storage,
        action_free=args.action_free,
        steps_after_success=args.steps_after_success,
        workers=args.workers,
        resume=args.resume,
        overwrite=args.overwrite,
    )
    logger.info("Wrote %s", root)
    return 0
