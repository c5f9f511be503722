"""`lara label`: computes the latent actions of a dataset's frames once, for policies to be trained on."""

import argparse
import logging
from dataclasses import fields
from typing import Any

from lerobot_lara.cli.cluster_arguments import add_cluster_arguments, cluster_options

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `lara label`."""
    parser.add_argument(
        "lam", nargs="?", help="a lara_lam checkpoint, or an aligned one, as a folder or Hub id"
    )
    parser.add_argument(
        "dataset",
        nargs="?",
        help="a LeRobotDataset, as a folder or Hub id, with or without actions; or a mixture file (.yaml)",
    )
    parser.add_argument("--out", help="folder of the labels; a run that was stopped goes on there")
    parser.add_argument(
        "--as-dataset",
        metavar="NAME",
        help="also write a copy of the dataset, user/name, with the labels as columns; --out may then be left out",
    )
    parser.add_argument("--root", help="folder of the copy (default: $HF_LEROBOT_HOME/<name>)")
    parser.add_argument(
        "--decoder",
        help="of `lara fit-decoder`: give the copy pseudo-actions, for policies that know nothing of latent actions",
    )
    parser.add_argument("--check", metavar="LABELS", help="check a folder of labels, and do nothing else")
    parser.add_argument(
        "--camera", help="camera of the dataset (default: the one that the model was trained on)"
    )
    parser.add_argument(
        "--dtype", choices=["float16", "float32"], default="float16", help="of the stored latent actions"
    )
    parser.add_argument(
        "--augmentations",
        type=int,
        default=0,
        help="randomly shifted versions of each pair, for a policy with random_shift (default: 0)",
    )
    parser.add_argument(
        "--random-shift", type=int, default=0, help="largest shift of these in pixels: the policy's"
    )
    parser.add_argument(
        "--no-motion",
        action="store_true",
        help="also store the latent actions of no motion, which --policy.alignment_relative=true needs",
    )
    codes = parser.add_mutually_exclusive_group()
    codes.add_argument(
        "--codebook-size",
        type=int,
        help="give a continuous model codes, so many for each latent-action token",
    )
    codes.add_argument("--codebook", metavar="LABELS", help="take the codes that were fitted to other labels")
    parser.add_argument("--seed", type=int, default=0, help="of shifts and codebooks (default: 0)")
    parser.add_argument("--workers", type=int, default=1, help="processes on this machine (default: 1)")
    parser.add_argument("--device", help="cpu or cuda (default: cuda if available)")
    parser.add_argument(
        "--precision",
        choices=["float32", "tf32", "bfloat16"],
        default="float32",
        help="arithmetic of the model; a GPU is faster with the others (default: float32)",
    )
    parser.add_argument(
        "--shard-frames",
        type=int,
        default=5000,
        help="about how many frames a file holds, and a killed run may lose (default: 5000)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace other labels in the folder")
    add_cluster_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Labels or checks; returns 1 if episodes could not be read."""
    # Imported here so that `lara label --help` does not load torch and the data libraries.
    if args.check is not None:
        return _check(args.check)
    needed = ("lam", "dataset") if args.as_dataset else ("lam", "dataset", "out")
    missing = [name for name in needed if getattr(args, name) is None]
    if missing:
        raise ValueError(
            f"`{missing[0]}` is missing. Pass `lara label <lam> <dataset> --out=<folder>`, or `--check=<folder>`."
        )
    from lerobot_lara.labeling.plan import LabelOptions
    from lerobot_lara.labeling.run import CopyOptions, label

    def chosen(options: type) -> dict[str, Any]:
        return {
            field.name: getattr(args, field.name) for field in fields(options) if hasattr(args, field.name)
        }

    copy = None
    if args.as_dataset is not None:
        copy = CopyOptions(args.as_dataset, args.root, args.decoder)
    elif args.root is not None or args.decoder is not None:
        raise ValueError(
            "`root` and `decoder` are of a copy of the dataset. Pass --as-dataset=<user/name> too."
        )
    out = args.out or f"{CopyOptions(args.as_dataset, args.root).folder}.labels"
    results = label(
        args.lam,
        args.dataset,
        out,
        camera=args.camera,
        options=LabelOptions(**chosen(LabelOptions)),
        executor=args.executor,
        workers=args.workers,
        cluster=cluster_options(args),
        overwrite=args.overwrite,
        copy=copy,
    )
    failed = 0
    for result in results:
        if result.manifest is None:
            logger.info(
                "%s: the tasks are submitted; the last one writes the manifest. Then: lara label --check %s",
                result.folder,
                result.folder,
            )
            continue
        manifest = result.manifest
        logger.info(
            "%s: %d rows with a latent action, %d without (the last %d frames of each episode).",
            result.folder,
            manifest.valid,
            manifest.invalid,
            manifest.frame_gap,
        )
        if copy is not None:
            logger.info("%s holds the copy of the dataset.", copy.folder)
        if manifest.errors:
            failed += len(manifest.errors)
            logger.warning(
                "%d episode(s) could not be read; %s/errors.json says why. Repair them and run the same command again.",
                len(manifest.errors),
                result.folder,
            )
    return 1 if failed else 0


def _check(folder: str) -> int:
    from lerobot_lara.labeling.check import check_labels

    labels = check_labels(folder)
    manifest = labels.manifest
    codes = "no codes" if manifest.codebook_size is None else f"{manifest.codebook_size} codes"
    logger.info(
        "%s is whole: %d rows, %d with a latent action (%d x %d, %s) of the model %s (%s), camera %s, frame gap %d.",
        folder,
        len(labels),
        manifest.valid,
        manifest.num_latent_tokens,
        manifest.latent_dim,
        codes,
        manifest.lam["name"],
        manifest.lam_sha256[:12],
        manifest.camera,
        manifest.frame_gap,
    )
    if manifest.errors:
        logger.warning("%d episode(s) could not be read when they were labeled.", len(manifest.errors))
    return 1 if manifest.errors else 0
