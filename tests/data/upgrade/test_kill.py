"""Upgrades that are killed at many moments: repeated, they give what an undisturbed one gives, and leave nothing.

As a program (`test_kill.py FOLDER`), this file runs the series in forks of a process that has no threads of its own.
"""

import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from data.test_upgrade_dataset import make_legacy

from lerobot_lara.data.upgrade import upgrade_dataset as module
from lerobot_lara.data.upgrade.upgrade_dataset import upgrade_dataset

MOMENTS = 12
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "shutil.rmtree", "shutil.copyfile")


def digest(root):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run_in_fork(function, folder, kill_at=None):
    """Runs `function` in a copy of this process and returns how often it was about to change something in `folder`.

    It is killed before the change number `kill_at`; the result is then None.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        count = 0

        def watch(event, arguments):
            nonlocal count
            writes = (
                event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            )
            if (writes or event in CHANGES) and any(
                str(folder) in str(argument) for argument in arguments[:2]
            ):
                count += 1
                if count == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        try:
            function()
            os.write(writer, str(count).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        answer = file.read()
    os.waitpid(child, 0)
    return int(answer) if answer else None


def series(folder):
    """Kills an upgrade at many moments, one after the other, and describes what repeating it gives."""
    source = folder / "source"
    run_in_fork(lambda: make_legacy(source, "v2.0", storage="image"), folder)

    def upgrade(name):
        return functools.partial(upgrade_dataset, source, folder / name / "upgraded", verify="none")

    changes = run_in_fork(upgrade("undisturbed"), folder / "undisturbed")
    expected, results = digest(folder / "undisturbed"), {}
    moments = {1 + round(step * (changes - 1) / (MOMENTS - 1)) for step in range(MOMENTS)}
    for moment in sorted(moments | set(range(changes - 4, changes))):  # the last ones tidy up
        name = f"killed_{moment}"
        killed = run_in_fork(upgrade(name), folder / name, moment) is None
        again = run_in_fork(upgrade(name), folder / name) is not None
        left = sorted(path.name for path in (folder / name).iterdir())
        results[moment] = [killed, again, digest(folder / name) == expected, left]
    return results


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
def test_killed_at_many_moments(tmp_path):
    command = [sys.executable, __file__, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert process.returncode == 0, process.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results) >= MOMENTS
    assert results == {moment: [True, True, True, ["upgraded"]] for moment in results}


def test_a_staging_folder_that_was_hardly_begun(tmp_path):
    source = make_legacy(tmp_path / "source", "v2.1", storage="image")
    staging = tmp_path / "upgraded.partial"
    staging.mkdir()
    (staging / "upgrade.json.partial").write_text('{"half')
    root = upgrade_dataset(source, tmp_path / "upgraded", verify="none")
    assert not staging.exists()
    staging.mkdir()
    assert upgrade_dataset(source, root, verify="none") == root and not staging.exists()


def test_the_record_is_removed_last(tmp_path, monkeypatch):
    """Otherwise a folder would be left that nobody knows."""
    source = make_legacy(tmp_path / "source", "v2.1", storage="image")
    staging, removed = tmp_path / "upgraded.partial", []
    rmtree = module.shutil.rmtree

    def watched(path, *args, **kwargs):
        if Path(path).parent == staging:
            removed.append(path)
            assert (staging / "upgrade.json").is_file()
        return rmtree(path, *args, **kwargs)

    monkeypatch.setattr(module.shutil, "rmtree", watched)
    upgrade_dataset(source, tmp_path / "upgraded", verify="none")
    assert removed and not staging.exists()


if __name__ == "__main__":
    (Path(sys.argv[1]) / "results.json").write_text(json.dumps(series(Path(sys.argv[1]))))
