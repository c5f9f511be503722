"""The `lara` command: one module per sub-command, each with `add_arguments(parser)` and `run(args) -> int`."""

import argparse
import importlib
import logging
import sys

SUBCOMMANDS = {
    "doctor": "check the installation and say what is missing",
    "collect-demos": "record scripted Meta-World demonstrations into a LeRobotDataset",
    "import-video": "turn a folder of video clips into an action-free LeRobotDataset",
    "upgrade-dataset": "turn a LeRobot dataset of format v2.0 or v2.1 into one of format v3.0",
    "oxe-mixture": "write a mixture file of Open X-Embodiment datasets",
    "show-data": "write a page that shows a dataset or mixture as a policy meets it",
    "probe": "measure whether the latent actions of checkpoints are meaningful, with a report",
    "export-lam": "write the aligned latent action model of a `lara` checkpoint as a `lara_lam` artifact",
    "export-base": "write a `lara` checkpoint as one of the plain base policy, `lara_dit`",
    "demo": "collect, train, evaluate and report on a small Meta-World study",
}
EXTRA_OF_MODULE = {
    "sklearn": "eval",
    "torchmetrics": "eval",
    "scipy": "eval",
    "matplotlib": "eval",
    "jinja2": "eval",
    "metaworld": "metaworld",
    "mujoco": "metaworld",
    "stlpips_pytorch": "offline",
}


def main(argv: list[str] | None = None) -> int:
    """Runs `lara <subcommand> ...`.

    Only the chosen sub-command's module is imported, so that `lara --help` stays instant.
    What the user has to fix, a `ValueError` or a package of an extra that is not installed, is said without a
    traceback, and the exit status is 1.
    """
    arguments = sys.argv[1:] if argv is None else argv
    try:
        return _run(arguments)
    except ValueError as error:
        problem = str(error)
    except ModuleNotFoundError as error:
        extra = EXTRA_OF_MODULE.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        problem = f"{error.name!r} is missing; pip install -e '.[{extra}]' brings it."
    except ImportError as error:
        if error.name is not None:
            raise
        problem = str(error)  # LeRobot's `require_package`, which says what to install
    sys.stderr.write(f"lara {arguments[0]}: {problem}\n")
    return 1


def _run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="lara", description=__doc__.split(":")[0])
    subparsers = parser.add_subparsers(dest="subcommand", required=True, metavar="subcommand")
    for name, description in SUBCOMMANDS.items():
        subparser = subparsers.add_parser(name, help=description, description=description)
        if arguments[:1] == [name]:
            module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    args = parser.parse_args(arguments)
    # LeRobot has logged while it was imported, which left a handler that drops progress messages.
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    return args.run(args)
