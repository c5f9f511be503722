"""Labelings that are killed: continued, they give what an undisturbed one gives, and no finished file is made again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.tiny_datasets import make_tiny_dataset

from lerobot_lara.labeling.plan import LabelOptions
from lerobot_lara.labeling.run import label

from .test_label import save_lam


@pytest.mark.parametrize("name", ["label_new", "label_codes", "label_overwrite"])
def test_a_killed_labeling_continues_to_what_an_undisturbed_one_gives(killed, name):
    found = killed(name, 6, timed=1)
    assert [each for each in found if not each["equal"]] == []
    assert [each for each in found if each["lost"]] == []
    if name != "label_overwrite":
        assert any(each["finished"] for each in found)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a process group's leader")
def test_workers_end_with_the_command_and_give_the_same_bytes(tmp_path):
    lam = save_lam(tmp_path / "lam")
    root = make_tiny_dataset(tmp_path / "data", num_episodes=6, num_frames=10, action=False, state=False)
    label(lam, str(root), tmp_path / "one", options=LabelOptions(shard_frames=10))
    command = [str(Path(sys.executable).with_name("lara")), "label", lam, str(root), f"--out={tmp_path}/two"]
    command += ["--workers=2", "--shard-frames=10"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    data = tmp_path / "two" / "data"
    while not (data.exists() and any(data.rglob("*.parquet"))) and process.poll() is None:
        time.sleep(0.05)
    children = _children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 20
    while any(_alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert children and not [child for child in children if _alive(child)]
    subprocess.run(command, check=True, capture_output=True)
    one, two = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "one", tmp_path / "two")
    )
    assert one == two


def _children(pid):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [int(each) for each in found.split()]


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
