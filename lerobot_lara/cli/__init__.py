"""The `lara` command: one module per subcommand, each with `add_arguments(parser)` and `run(args) -> int`."""

import argparse
import importlib
import logging
import sys

from lerobot_lara.cli.endings import PIPE_CLOSED, close_broken_stdout, ending

SUBCOMMANDS = {
    "doctor": "check the installation and report what is missing",
    "collect-demos": "record demonstrations of scripted experts in simulation into a LeRobotDataset",
    "import-video": "turn a folder of video clips into an action-free LeRobotDataset",
    "upgrade-dataset": "convert a LeRobot dataset from format v2.0 or v2.1 to v3.0",
    "oxe-mixture": "write a mixture file of Open X-Embodiment datasets",
    "show-data": "write a page that shows a dataset or mixture as a policy sees it",
    "probe": "measure whether the latent actions of checkpoints are meaningful, and write a report",
    "label": "compute the latent actions of a dataset once, for policies to be trained on",
    "fit-decoder": "learn which robot actions belong to latent actions, for `lara label --decoder`",
    "bases": "list the policies of LeRobot that can be aligned, and what works with each",
    "export-lam": "write the latent action model of an aligned checkpoint as a `lara_lam` checkpoint",
    "export-base": "write the policy of an aligned checkpoint without its latent action model, as its plain base",
    "benchmark": "evaluate policies on a suite of simulated tasks, and write a report",
    "serve": "answer the observations of other programs, such as vla-eval, with the actions of a policy",
    "demo": "run a small Meta-World study: collect, train, evaluate and report",
}
# What to do after Ctrl+C.
RESUME = {
    "collect-demos": "Run the same command with --resume, and without --overwrite, to continue.",
    "import-video": "Run the same command with --resume, and without --overwrite, to continue.",
    "upgrade-dataset": "Run the same command again to continue.",
    "label": "Run the same command again, without --overwrite, to continue.",
    "benchmark": "Run the same command again to continue.",
    "demo": "Run the same command again, without --overwrite, to continue.",
}


def main(argv: list[str] | None = None) -> int:
    """Runs `lara <subcommand> ...`.

    Only the module of the chosen subcommand is imported, so that `lara --help` is instant. What the user can mend (a
    `ValueError`, a missing package of an extra, a full disk) is reported in one paragraph, without a traceback.

    Args:
        argv: The arguments; None takes those of the process.

    Returns:
        The exit status: that of the subcommand, 2 after an error that the user can mend, 70 after one that is a bug,
        130 after Ctrl+C, or 141 if the reader of the output has gone.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] == ["--"]:  # argparse would accept a subcommand after it, whose module is not loaded
        del arguments[0]
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except (Exception, KeyboardInterrupt) as error:
        subcommand = arguments[0] if arguments else ""
        if isinstance(error, BrokenPipeError) and close_broken_stdout():
            return PIPE_CLOSED
        end = ending(error, subcommand, RESUME.get(subcommand, "Run the same command to start again."))
    sys.stderr.write(end.text)
    return end.status


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
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request to the Hub
    return args.run(args)
