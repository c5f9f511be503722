"""Kills a command at its write operations or at random times, continues it, and compares with an undisturbed run.

Everything runs in forks of this process, which therefore loads LeRobot only once and must have no threads of its own.
A fork leads a process group, so that a kill ends its children too.
"""

import hashlib
import json
import os
import random
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"}
"""Events of Python that change files, besides opening one for writing."""
CHILDREN = ("KILLS_FOLDER", "KILLS_LOG", "KILLS_MOMENT")
"""Variables by which a child of the command takes part; it calls `watch_as_child`."""


@dataclass
class Command:
    """A command that is killed.

    Args:
        name: Name in the table.
        prepare: Makes what the command begins with, in a folder that does not exist.
        run: Runs the command in that folder; returns the units of work that it did.
        again: Continues it; returns the units of work that it did.
        contents: {file: what it holds} of the result, without what differs between two undisturbed runs.
        finished: The units of work that were finished when the command was killed.
        left: Names in the folder that the command may leave.
    """

    name: str
    prepare: Callable[[Path], object]
    run: Callable[[Path], list[str]]
    again: Callable[[Path], list[str]]
    contents: Callable[[Path], dict[str, str]]
    finished: Callable[[Path], list[str]] = field(default=lambda place: [])


def run_series(
    command: Command, folder: Path, *, moments: int, timed: int = 0, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Yields what became of each run that was killed.

    Args:
        command: The command.
        folder: A folder for the runs.
        moments: Write operations to kill it at, evenly spread; its last renames, which move what is complete into
            place, are added. 0 is every one.
        timed: Moments besides these, at random times.
        seed: Seed of the times.
    """
    place = folder / "undisturbed"
    forked(lambda: command.prepare(place) and None)
    log = folder / "operations"
    seconds, expected, left = forked(lambda: _undisturbed(command, place, log))
    operations = log.read_text().splitlines()
    number = len(operations)
    spread = {1 + (number - 1) * step // max(1, moments - 1) for step in range(moments)}
    renames = [step for step, event in enumerate(operations, start=1) if event == "os.rename"][-3:]
    chosen = spread | set(renames)
    if moments > 8:
        chosen |= {step + 1 for step in renames if step < number}
    kills: list[tuple[str, int | None, float | None]] = [
        (str(step), step, None) for step in (sorted(chosen) if moments else range(1, number + 1))
    ]
    generator = random.Random(seed)
    times = [generator.uniform(0, seconds) for _ in range(timed)]
    kills += [(f"{after:.3f}s", None, after) for after in times]
    for label, step, after in kills:
        place = folder / f"moment_{label}"
        forked(lambda place=place: command.prepare(place) and None)
        log = folder / f"operations_{label}"
        outcome = forked(
            lambda place=place, log=log, step=step: _disturbed(command, place, log, step), kill_after=after
        )
        found: dict[str, Any] = {"command": command.name, "moment": label, "of": number}
        found["killed"] = outcome is None
        try:
            found |= forked(lambda place=place: _continued(command, place, expected, left))
        except RuntimeError as error:
            found |= {"failed": str(error), "equal": False, "lost": []}
        yield found


def _undisturbed(command: Command, place: Path, log: Path) -> tuple[float, dict[str, str], list[str]]:
    watch_writes(place, log)
    started = time.monotonic()
    command.run(place)
    return time.monotonic() - started, command.contents(place), _names(place)


def _disturbed(command: Command, place: Path, log: Path, step: int | None) -> str:
    watch_writes(place, log, kill_at=step)
    command.run(place)
    return "not killed"


def _continued(command: Command, place: Path, expected: dict[str, str], left: list[str]) -> dict[str, Any]:
    finished = command.finished(place)
    done = command.again(place)
    contents = command.contents(place)
    differing = sorted({name for name, _ in {*expected.items()} ^ {*contents.items()}})
    leftovers = sorted(set(_names(place)) ^ set(left))
    return {
        "finished": sorted(finished),
        "done": sorted(done),
        "lost": sorted(set(finished) & set(done)),
        "differing": differing,
        "leftovers": leftovers,
        "equal": not differing and not leftovers,
    }


def _names(place: Path) -> list[str]:
    """What lies in a folder, and what has a temporary name below it."""
    partial = {
        path.relative_to(place).as_posix()
        for path in place.rglob("*")
        if path.name.endswith((".partial", ".replaced", ".lock", ".tmp"))
    }
    return sorted({path.name for path in place.iterdir()} | partial)


def forked(function: Callable[[], Any], *, kill_after: float | None = None) -> Any:
    """Runs a function in a process of its own; returns what it returns as JSON, or None if it was killed.

    Args:
        function: The function.
        kill_after: Seconds after which it is killed.

    Raises:
        RuntimeError: It raised an exception; the message is the end of its traceback.
    """
    sys.stdout.flush()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        os.setsid()
        os.close(read)
        with os.fdopen(write, "w") as output:
            try:
                json.dump({"answer": function()}, output)
                status = 0
            except BaseException:
                output.write(json.dumps({"error": traceback.format_exc()[-1500:]}))
            finally:
                output.flush()
                os._exit(status)
    os.close(write)
    with os.fdopen(read) as answer:
        if kill_after is not None and not select.select([answer], [], [], kill_after)[0]:
            os.killpg(child, signal.SIGKILL)
        text = answer.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return None
    content = json.loads(text)
    if "error" in content:
        raise RuntimeError(content["error"])
    return content["answer"]


def watch_writes(folder: Path, log: Path, *, kill_at: int | None = None) -> None:
    """Writes the names of what changes files below a folder to a log, and kills the group before number `kill_at`."""
    os.environ.update(
        zip(CHILDREN, (str(folder), str(log), "" if kill_at is None else str(kill_at)), strict=True)
    )
    handle = os.open(log, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    prefix = f"{folder}{os.sep}"

    def step(name: str) -> None:
        os.write(handle, f"{name}\n".encode())
        if kill_at is not None and os.pread(handle, os.fstat(handle).st_size, 0).count(b"\n") >= kill_at:
            os.killpg(0, signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        else:
            path, changes = (arguments or [None])[-1 if event == "os.symlink" else 0], event in CHANGES
            if event == "os.symlink":
                path = arguments[1]
        if (
            changes
            and isinstance(path, str | bytes | os.PathLike)
            and os.fsdecode(path).startswith(prefix)
            and not os.fsdecode(path).endswith(".lock")
        ):
            step(event)

    sys.addaudithook(hook)
    synchronize = os.fsync

    def fsync(descriptor: int) -> None:
        step("fsync")
        synchronize(descriptor)

    os.fsync = fsync


def watch_as_child() -> None:
    """Lets a child of the command be killed at its own write operations, with the command."""
    folder, log, moment = (os.environ.get(name, "") for name in CHILDREN)
    if folder:
        watch_writes(Path(folder), Path(log), kill_at=int(moment) if moment else None)


def file_contents(root: Path, *, leave_out: tuple[str, ...] = ()) -> dict[str, str]:
    """{file: digest of what it holds}, for all files below a folder but those with a name to be left out."""
    found = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file() and path.name not in leave_out):
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            table = pq.ParquetFile(path).read()
            content = f"{table.schema} {table.to_pylist()}".encode()
        elif path.suffix == ".mp4":
            import av

            with av.open(str(path)) as container:
                content = b"".join(
                    f"{frame.pts}".encode() + frame.to_ndarray().tobytes()
                    for frame in container.decode(video=0)
                )
        else:
            content = path.read_bytes()
        found[path.relative_to(root).as_posix()] = hashlib.sha256(content).hexdigest()
    return found
