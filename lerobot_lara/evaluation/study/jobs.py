"""Runs the commands of a study as child processes, in the order of their dependencies and a few at a time.

Every job is one command line that can be pasted into a shell. A record per job makes a study resumable: finished jobs
are skipped, interrupted ones are continued if they can be and otherwise start again, and a finished job whose command
has changed is refused.
"""

import ctypes
import functools
import hashlib
import json
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from lerobot_lara.files.atomic import write_json
from lerobot_lara.files.lock import only_run

logger = logging.getLogger(__name__)

# One thread per process, in PyTorch and in Mesa's renderer: two single-threaded processes get more done on two
# cores than one with two threads.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "LP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_MODE": "disabled",
}
OFFLINE = {"HF_HUB_OFFLINE": "1"}
# Rendering without a display; a backend that the user chose is kept.
ENVIRONMENT_DEFAULTS = {"MUJOCO_GL": "egl"} if sys.platform == "linux" else {}
PROGRESS_INTERVAL_S = 30.0
POLL_INTERVAL_S = 0.5
LOG_TAIL_LINES = 30
MAX_TIME_S = 1e12  # since the epoch; the year 33658


@dataclass(frozen=True)
class Job:
    """One command of a study.

    Args:
        name: Short identifier, also the name of the job's log and record.
        title: What the job does, for the progress display and the report.
        command: Program and arguments. A program installed next to the running interpreter is found by its bare
            name; `python` is the running interpreter.
        output: File or directory that the command creates. Leftovers of an interrupted run are deleted.
        product: File whose presence shows that the command succeeded; None stands for `output`.
        needs: Names of the jobs whose output this one reads.
        inputs: Files, such as configurations, whose content decides what the command does.
        progress: Description of the command's progress bar; empty if it has none.
        resume: Returns the command that continues an interrupted run from what that has left in `output`, or None if
            there is nothing to continue; without it, the job starts again.
    """

    name: str
    title: str
    command: tuple[str, ...]
    output: Path
    product: Path | None = None
    needs: tuple[str, ...] = ()
    inputs: tuple[Path, ...] = ()
    progress: str = ""
    resume: Callable[[], tuple[str, ...] | None] | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the product exists."""
        return (self.product or self.output).exists()

    @property
    def fingerprint(self) -> dict[str, object]:
        """The command and the digests of its input files; a finished job is valid as long as this is the same."""
        digests = {str(path): _digest(path, *_version(path)) for path in self.inputs}
        return {"command": list(self.command), "inputs": digests}


@dataclass(frozen=True)
class JobTime:
    """When a job ran.

    Args:
        started: Start in seconds since the epoch; of a job that was continued, as if it had not been interrupted.
        seconds: Wall-clock duration in seconds, without interruptions.
    """

    started: float
    seconds: float


@functools.cache
def _digest(path: Path, size: int, modified_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(path: Path) -> tuple[int, int]:
    """Size and time of change, so that a file is read again if it is another one."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


class JobError(RuntimeError):
    """A job's process failed. The message contains the command, the path of the log and its last lines."""


def run_jobs(
    jobs: Sequence[Job],
    *,
    state_dir: Path,
    num_parallel: int = 2,
    offline: bool = True,
    exclusive: bool = True,
) -> dict[str, JobTime]:
    """Runs the jobs that are not done yet.

    Jobs start in the given order, as soon as the jobs they need are done, at most `num_parallel` at a time. A job is
    skipped if its record says that the same command finished, its product exists, and nothing it needs had to run
    again.

    Args:
        jobs: The jobs of the study.
        state_dir: Directory for `<name>.log` and `<name>.json`; created if missing.
        num_parallel: Largest number of processes at a time.
        offline: Whether nothing may be downloaded, so that a study cannot depend on what the Hub has today.
        exclusive: Whether nobody else may run jobs in the directory; if not, theirs must be other jobs.

    Returns:
        When each job ran, by name, in this call or an earlier one.

    Raises:
        ValueError: If a finished job was run with other settings, a job would replace output that it did not make, or
            the jobs are being run already.
        JobError: If a process fails. The processes that run at the same time are ended first.
    """
    with only_run(state_dir, "state_dir") if exclusive else nullcontext():
        state_dir.mkdir(exist_ok=True)
        return _run_jobs(jobs, state_dir, num_parallel, OFFLINE if offline else {})


def check_records(jobs: Sequence[Job], state_dir: Path) -> None:
    """Raises a ValueError if one of the jobs was finished with other settings."""
    for job in jobs:
        _read_record(state_dir, job)


def _run_jobs(
    jobs: Sequence[Job], state_dir: Path, num_parallel: int, environment: dict[str, str]
) -> dict[str, JobTime]:
    records = {job.name: _read_record(state_dir, job) for job in jobs}
    pending: list[Job] = []
    for job in jobs:
        stale = {needed.name for needed in pending}
        if (
            records[job.name].get("status") == "done"
            and job.is_complete
            and not stale.intersection(job.needs)
        ):
            logger.info("%s: done before, skipped", job.title)
        else:
            pending.append(job)
    done = {job.name for job in jobs} - {job.name for job in pending}
    times = {name: JobTime(records[name]["started"], records[name]["seconds"]) for name in done}
    commands = {}
    for job in pending:
        reads_anew = not {needed.name for needed in pending}.isdisjoint(job.needs)
        commands[job.name] = None if reads_anew else _continuation(job, records[job.name])
        if commands[job.name] is None:
            _clear(job, records[job.name])

    running: list[_Process] = []
    try:
        # Messages go above the progress bars instead of through them.
        with logging_redirect_tqdm():
            while pending or running:
                for job in [job for job in pending if done.issuperset(job.needs)]:
                    if len(running) < num_parallel:
                        pending.remove(job)
                        slot = _free_slot(running)
                        process = _Process(
                            job,
                            state_dir,
                            slot=slot,
                            continuation=commands[job.name],
                            environment=environment,
                        )
                        running.append(process)
                if not running:
                    raise ValueError(
                        f"`jobs` has {[job.name for job in pending]}, which need jobs that are not in the study; it "
                        "must have all of them. Add the missing jobs."
                    )
                time.sleep(POLL_INTERVAL_S)
                for process in list(running):
                    if process.poll():
                        running.remove(process)
                        done.add(process.job.name)
                        times[process.job.name] = process.time
    finally:
        for process in running:
            process.stop()
    return times


def busy_seconds(times: Iterable[JobTime]) -> float:
    """Wall-clock seconds during which at least one of the jobs was running."""
    total, last_end = 0.0, float("-inf")
    for time_span in sorted(times, key=lambda span: span.started):
        end = time_span.started + time_span.seconds
        total += max(0.0, end - max(time_span.started, last_end))
        last_end = max(last_end, end)
    return round(total, 1)


def shell_line(command: Sequence[str]) -> str:
    """Formats a command for a shell, with paths below the working directory relative to it."""
    here = f"{Path.cwd()}{os.sep}"
    return shlex.join(argument.replace(here, "") for argument in command)


def read_progress(log: Path, description: str) -> tuple[int, int] | None:
    """Reads the state of a child's tqdm bar from its captured output.

    Args:
        log: Captured output; need not exist yet.
        description: Text before the bar's colon.

    Returns:
        (done, total) when the bar was last drawn, or None if there is no such bar yet.
    """
    if not description or not log.is_file():
        return None
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - 50_000))
        tail = file.read().decode(errors="replace")
    bars = re.findall(rf"{re.escape(description)}[^:\r\n]*:[^|\r\n]*\|[^|\r\n]*\|\s*(\d+)/(\d+)", tail)
    return (int(bars[-1][0]), int(bars[-1][1])) if bars else None


class _Process:
    """A running job with its log and progress bar."""

    def __init__(
        self,
        job: Job,
        state_dir: Path,
        *,
        slot: int,
        continuation: tuple[str, ...] | None,
        environment: dict[str, str],
    ) -> None:
        self.job = job
        self.slot = slot
        # Of the files as they are now; they may be replaced while it runs.
        self._fingerprint = job.fingerprint
        self._record_path = state_dir / f"{job.name}.json"
        self._log_path = state_dir / f"{job.name}.log"
        self._reported = time.monotonic()
        spent = 0.0 if continuation is None else _seconds_spent(self._record_path, self._log_path)
        self.time = JobTime(time.time() - spent, 0.0)
        write_json(
            self._record_path, {"status": "running", "started": self.time.started, **self._fingerprint}
        )
        command = continuation or job.command
        logger.info(
            "%s: %s\n  %s", job.title, "continued" if continuation else "started", shell_line(command)
        )
        with self._log_path.open("ab" if continuation else "wb") as log:
            self._process = subprocess.Popen(  # noqa: S603  runs what the study is made of
                [_resolve_program(command[0]), *command[1:]],
                preexec_fn=_end_with_parent(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **ENVIRONMENT_DEFAULTS,
                    **os.environ,
                    **ENVIRONMENT,
                    **environment,
                    "TQDM_MININTERVAL": "1",
                },
            )
        self._bar = tqdm(
            desc=job.title,
            position=slot,
            leave=False,
            disable=not sys.stderr.isatty(),
            bar_format=_BAR_FORMAT,
        )

    def poll(self) -> bool:
        """Updates the progress display and returns whether the job is done; raises JobError if it failed."""
        status = self._process.poll()
        if status is None:
            self._show_progress()
            return False
        self._bar.close()
        self.time = replace(self.time, seconds=self._elapsed())
        if status != 0 or not self.job.is_complete:
            raise JobError(self._describe_failure(status))
        record = {"status": "done", **asdict(self.time), **self._fingerprint}
        write_json(self._record_path, record)
        logger.info("%s: done in %.0f s", self.job.title, self.time.seconds)
        return True

    def stop(self) -> None:
        """Ends the process if it is still running."""
        self._bar.close()
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _show_progress(self) -> None:
        progress = read_progress(self._log_path, self.job.progress)
        if progress:
            self._bar.n, self._bar.total = progress
        self._bar.refresh()
        if self._bar.disable and time.monotonic() - self._reported > PROGRESS_INTERVAL_S:
            self._reported = time.monotonic()
            how_far = "{} of {}".format(*progress) if progress else "starting"
            logger.info("%s: %s after %.0f s", self.job.title, how_far, self._elapsed())

    def _elapsed(self) -> float:
        return round(time.time() - self.time.started, 1)

    def _describe_failure(self, status: int) -> str:
        reason = (
            f"exit status {status}" if status else f"{self.job.product or self.job.output} was not written"
        )
        lines = re.split(r"[\r\n]+", self._log_path.read_text(errors="replace").strip())
        tail = "\n".join(f"  | {line}" for line in lines[-LOG_TAIL_LINES:])
        return (
            f"{self.job.title} failed: {reason}.\n"
            f"Command: {shell_line(self.job.command)}\n"
            f"Log: {self._log_path}, which ends with\n{tail}\n"
            "Fix the cause, then run the same command again: it resumes from this job."
        )


_BAR_FORMAT = "{desc}: {percentage:3.0f}% |{bar:30}| {n_fmt}/{total_fmt} [{elapsed}]"


def _resolve_program(program: str) -> str:
    if program == "python":
        return sys.executable
    beside = Path(sys.executable).parent / program
    return str(beside) if beside.exists() else shutil.which(program) or program


def _free_slot(running: Sequence[_Process]) -> int:
    taken = {process.slot for process in running}
    return next(slot for slot in range(len(running) + 1) if slot not in taken)


def _end_with_parent() -> Callable[[], None] | None:
    """What makes a child end when this process is killed, where the system can do that (Linux).

    It would otherwise go on writing while the study that is run again starts the same job.
    """
    if sys.platform != "linux":
        return None
    set_option, parent, on_death = ctypes.CDLL(None).prctl, os.getpid(), 1  # PR_SET_PDEATHSIG

    def end_with_parent() -> None:
        set_option(on_death, signal.SIGKILL)
        if os.getppid() != parent:  # it was killed before the call
            os._exit(1)

    return end_with_parent


def _seconds_spent(record: Path, log: Path) -> float:
    """How long an interrupted job has run: until its last output."""
    try:
        return max(0.0, log.stat().st_mtime - float(json.loads(record.read_bytes())["started"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return 0.0


def _read_record(state_dir: Path, job: Job) -> dict:
    """What is known of a job: empty if it has never run here, without "status" if its record is not one."""
    path = state_dir / f"{job.name}.json"
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_bytes())
        known: dict[str, Any] = {"command": list(record["command"]), "inputs": dict(record["inputs"])}
        texts = [*known["command"], *known["inputs"], *known["inputs"].values(), record["status"]]
        times = [record[name] for name in ("started", "seconds")] if record["status"] == "done" else []
        if not all(isinstance(text, str) for text in texts) or not all(map(_is_time, times)):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        logger.warning("%s is not the record of a job, so %r is done again.", path, job.title)
        return {"torn": True}
    if record["status"] == "done" and known != job.fingerprint:
        raise ValueError(
            f"{state_dir.parent} was made with other settings: there, {job.title!r} was done by "
            f"{shell_line(record['command'])}. Pass another output directory, or delete that one to start again."
        )
    return record


def _is_time(value: Any) -> bool:
    """Whether a value is a finite number of seconds."""
    return type(value) in (int, float) and 0 <= value < MAX_TIME_S


def _continuation(job: Job, record: dict) -> tuple[str, ...] | None:
    """The command that continues an interrupted job, if it was the same job and it can be continued."""
    same = {key: record.get(key) for key in ("command", "inputs")} == job.fingerprint
    if job.resume is None or record.get("status") != "running" or not same:
        return None
    return job.resume()


def _clear(job: Job, record: dict) -> None:
    """Deletes the leftovers of an earlier run of the same job, and nothing else."""
    if not job.output.exists():
        return
    if not record:
        raise ValueError(
            f"{job.output} exists, but was not made by this study: {job.title!r} has not run here. Move it away, or "
            "pass another output directory."
        )
    remove: Callable[[Path], object] = shutil.rmtree if job.output.is_dir() else Path.unlink
    remove(job.output)
