"""The `lara` command: one module per subcommand, each with `add_arguments(parser)` and `run(args) -> int`."""

import argparse
import errno
import importlib
import logging
import sys

SUBCOMMANDS = {
    "doctor": "check the installation and report what is missing",
    "collect-demos": "record scripted Meta-World demonstrations into a LeRobotDataset",
    "import-video": "turn a folder of video clips into an action-free LeRobotDataset",
    "upgrade-dataset": "convert a LeRobot dataset from format v2.0 or v2.1 to v3.0",
    "oxe-mixture": "write a mixture file of Open X-Embodiment datasets",
    "show-data": "write a page that shows a dataset or mixture as a policy sees it",
    "probe": "measure whether the latent actions of checkpoints are meaningful, and write a report",
    "export-lam": "write the latent action model of a `lara` checkpoint as a `lara_lam` checkpoint",
    "export-base": "write the policy of a `lara` checkpoint without its latent action model, as `lara_dit`",
    "demo": "run a small Meta-World study: collect, train, evaluate and report",
}
_FILE_SYSTEM = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.EIO,
        errno.ENOTDIR,
        errno.EISDIR,
    }
)
"""Errors of the operating system that a user can do something about."""
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

    Only the module of the chosen subcommand is imported, so that `lara --help` is instant. Errors that the user can
    fix, a `ValueError`, a missing package of an extra, or a disk that is full or must not be written, are reported
    without a traceback.

    Args:
        argv: The arguments; None takes those of the process.

    Returns:
        The exit status: that of the subcommand, 1 after an error that the user can fix, or 2 after one of the file
        system.
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
        problem = f"The package {error.name!r} is missing. Install it with `pip install -e '.[{extra}]'`."
    except ImportError as error:
        if error.name is not None:
            raise
        problem = str(error)  # LeRobot's `require_package`, which says what to install
    except OSError as error:
        if error.errno not in _FILE_SYSTEM:
            raise
        sys.stderr.write(
            f"lara {arguments[0]}: {error.filename or 'A file'} cannot be read or written: {error.strerror or error}. "
            "Make sure that there is space and that the place may be read and written, then repeat the command (with "
            "--resume, if it has that option): what was finished is kept.\n"
        )
        return 2
    sys.stderr.write(f"lara {arguments[0]}: {problem}\n")
    return 1


def _run(arguments: list[str]) -> int:
    """Parses the arguments and runs the subcommand."""
    parser = argparse.ArgumentParser(prog="lara", description="Tools for LARA policies and their data.")
    subparsers = parser.add_subparsers(dest="subcommand", required=True, metavar="subcommand")
    for name, description in SUBCOMMANDS.items():
        subparser = subparsers.add_parser(name, help=description, description=description)
        if arguments[:1] == [name]:
            module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    args = parser.parse_args(arguments)
    # LeRobot has logged during its import, which left a handler that drops progress messages.
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    return args.run(args)
