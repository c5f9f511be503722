"""Kills video imports at many write operations, continues them, and tells what became of the dataset.

Run as `python kill_series.py <folder> <scenario>=<moments> ...`. Each import runs in a process of its own, forked from
this one, which therefore loads LeRobot only once. Writes a JSON line for each moment.
"""

import hashlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path

import av
import pyarrow.parquet as pq
from support.videos import write_clip

from lerobot_lara.data.video import assemble, import_video  # noqa: F401 - load LeRobot
from lerobot_lara.data.video.dataset import MANIFEST_PATH

SCENARIOS = {"new": {}, "add": {"resume": True}, "overwrite": {"overwrite": True}}
"""Options of the import that is killed: of a new dataset, into one with two clips, and in the place of that."""
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link"}
"""Events of Python that change files, besides opening one for writing."""


def run_import(folder, storage, **options):
    root = folder / "dataset"
    return import_video.import_video(
        folder / "clips", "local/clips", root=root, storage=storage, fps=10, **options
    )


def contents(root):
    """{file: what it holds}, for all files of a dataset."""
    found = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        if path.suffix == ".parquet":
            table = pq.ParquetFile(path).read()
            content = f"{table.schema} {table.to_pylist()}".encode()
        elif path.suffix == ".mp4":
            with av.open(str(path)) as container:
                content = b"".join(
                    f"{frame.pts}".encode() + frame.to_ndarray().tobytes()
                    for frame in container.decode(video=0)
                )
        else:
            content = path.read_bytes()
        found[path.relative_to(root).as_posix()] = hashlib.sha256(content).hexdigest()
    return found


def forked(function):
    """Runs a function in a process of its own; returns what it returns, or None if it was killed."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(read)
            with os.fdopen(write, "w") as output:
                json.dump(function(), output)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as output:
        text = output.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return None
    assert status == 0, status
    return json.loads(text)


def watch_writes(folder, *, kill_at=None):
    """Lists, from now on, what changes files below `folder`, and kills this process before operation `kill_at`."""
    operations = []

    def step(name):
        operations.append(name)
        if len(operations) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event, arguments):
        if event == "open":
            path, _, flags = arguments
            changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        else:
            path, changes = (arguments or [None])[0], event in CHANGES
        if (
            changes
            and isinstance(path, str | bytes | os.PathLike)
            and os.fsdecode(path).startswith(str(folder))
        ):
            step(event)

    sys.addaudithook(hook)
    synchronize = os.fsync

    def fsync(handle):
        step("fsync")
        synchronize(handle)

    os.fsync = fsync
    return operations


def run_series(scenario, folder, moments):
    """Yields, for each moment, what the resumed import gave, compared with an undisturbed one."""
    storage = "image" if scenario == "add" else "video"
    killed = SCENARIOS[scenario]

    def prepare(place):
        write_clip(place / "clips" / "a.mp4", num_frames=4)
        write_clip(place / "clips" / "c.mp4", num_frames=5)
        if scenario != "new":
            forked(lambda: run_import(place, storage).num_episodes)
        write_clip(place / "clips" / "b.mp4", num_frames=6)
        write_clip(place / "clips" / "d.mp4", num_frames=3)
        return place

    def undisturbed():
        operations = watch_writes(place)
        run_import(place, storage, **killed)
        return operations, contents(place / "dataset")

    def disturbed():
        watch_writes(place, kill_at=moment)
        run_import(place, storage, **killed)
        return "not killed"

    def resumed():
        finished = [
            json.loads(path.read_bytes())["name"]
            for path in (place / "dataset.partial").glob("clips/*/meta/clip.json")
            if path.parents[1].name.isdecimal()
        ]
        decoded = []
        read = import_video.read_frames

        def recorded(path, **options):
            decoded.append(path.name)
            return read(path, **options)

        import_video.read_frames = recorded
        # An overwrite that has not begun, or has ended, would be taken for an addition.
        again = killed if not (place / "dataset.partial" / MANIFEST_PATH).exists() else {}
        run_import(place, storage, **(again or {"resume": True}))
        return {
            "scenario": scenario,
            "moment": moment,
            "of": len(operations),
            "finished": sorted(finished),
            "decoded": sorted(decoded),
            "differing": sorted({name for name, _ in expected.items() ^ contents(place / "dataset").items()}),
            "left": sorted(path.name for path in place.iterdir()),
        }

    place = prepare(folder / "undisturbed")
    operations, expected = forked(undisturbed)
    steps = {1 + (len(operations) - 1) * number // (moments - 1) for number in range(moments)}
    # The last three rename what makes the dataset whole, the old one and the new one.
    renames = [number for number, event in enumerate(operations, start=1) if event == "os.rename"][-3:]
    for moment in sorted(steps | set(renames) | {number + 1 for number in renames}):
        place = prepare(folder / f"moment_{moment}")
        assert forked(disturbed) is None, f"not killed at {moment} of {len(operations)}"
        yield forked(resumed)


if __name__ == "__main__":
    for argument in sys.argv[2:]:
        name, number = argument.split("=")
        for found in run_series(name, Path(sys.argv[1]) / name, int(number)):
            sys.stdout.write(json.dumps(found) + "\n")
            sys.stdout.flush()  # or each process that is forked would write it again
