import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """What became of imports that were killed at many moments and continued."""
    command = [sys.executable, str(Path(__file__).with_name("kill_series.py"))]
    command += [str(tmp_path_factory.mktemp("killed")), "new=10", "add=4", "overwrite=4"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "SVT_LOG": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]


def test_a_killed_import_continues_to_what_an_undisturbed_one_gives(series):
    assert all(found >= least for found, least in zip(_moments(series), (14, 8, 8), strict=True))
    assert [found for found in series if found["differing"]] == []
    assert [found for found in series if found["left"] != ["clips", "dataset"]] == []


def test_finished_clips_are_not_decoded_again(series):
    assert [found for found in series if set(found["finished"]) & set(found["decoded"])] == []
    assert {len(found["finished"]) for found in series if found["scenario"] == "new"} == {0, 1, 2, 3, 4}


def _moments(series):
    """How many moments there are of each scenario."""
    count = Counter(found["scenario"] for found in series)
    return [count[scenario] for scenario in ("new", "add", "overwrite")]
