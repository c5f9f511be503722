"""`lara fit-decoder`: learns which robot actions belong to latent actions, for pseudo-labels."""

import argparse
import logging

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `lara fit-decoder`."""
    parser.add_argument("lam", help="a lara_lam checkpoint, or an aligned one, as a folder or Hub id")
    parser.add_argument("demos", help="a LeRobotDataset with actions, as a folder or Hub id")
    parser.add_argument("--out", required=True, help="folder of the decoder, which must be new")
    parser.add_argument("--episodes", help="the first so many, or a list such as 0,3,5 (default: all)")
    parser.add_argument(
        "--camera", help="camera of the dataset (default: the one that the model was trained on)"
    )
    parser.add_argument("--device", help="cpu or cuda (default: cuda if available)")
    parser.add_argument("--seed", type=int, default=0, help="of the networks (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Fits the decoder, says what it is worth, and returns 0."""
    # Imported here so that `lara fit-decoder --help` does not load torch and the data libraries.
    from lerobot_lara.labeling.decoder import summary
    from lerobot_lara.labeling.pseudo_actions import fit

    record = fit(
        args.lam,
        args.demos,
        args.out,
        episodes=_episodes(args.episodes),
        camera=args.camera,
        device=args.device,
        seed=args.seed,
    )
    logger.info("%s", summary(record))
    logger.info("Next: lara label %s <videos> --decoder=%s --as-dataset=<name>", args.lam, args.out)
    return 0


def _episodes(text: str | None) -> list[int] | None:
    if text is None:
        return None
    numbers = text.split(",")
    if not all(number.strip().isdecimal() for number in numbers):
        raise ValueError(f"`--episodes` is {text!r}; it must be a number, or numbers separated by commas.")
    chosen = [int(number) for number in numbers]
    return list(range(chosen[0])) if len(chosen) == 1 else chosen
