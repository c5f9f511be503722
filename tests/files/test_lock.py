import errno
import subprocess
import sys

import pytest
from filelock import FileLock

from lerobot_lara.files.lock import only_run

# Without the package, which takes seconds to import.
HOLDER = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1] + ".lock"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_another_process_is_refused_until_the_first_ends_or_is_killed(tmp_path):
    root = tmp_path / "new" / "data"
    root.parent.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"held\n"
        with (
            pytest.raises(ValueError, match=r"`root` is .*data, which another run is writing"),
            only_run(root, "root"),
        ):
            pass
    finally:
        process.kill()
        process.communicate()
    with only_run(root, "root"):
        assert [path.name for path in root.parent.iterdir()] == ["data.lock"]
    assert list(root.parent.iterdir()) == []


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, caplog):
    def acquire(self, **kwargs):
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(FileLock, "acquire", acquire)
    with only_run(tmp_path / "data", "root"):
        pass
    assert "cannot be locked" in caplog.text


def test_folders_made_for_the_lock_stay_only_if_something_is_written(tmp_path):
    for written in (False, True):
        with only_run(tmp_path / "a" / "b" / "data", "root"):
            if written:
                (tmp_path / "a" / "b" / "data").touch()
        assert (tmp_path / "a").exists() == written
