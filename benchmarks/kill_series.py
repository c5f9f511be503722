"""Kills each command at many moments, continues it, and compares the result with that of an undisturbed run.

    python benchmarks/kill_series.py [collect_new=30 train=20+10 ...]

`name=moments+timed` asks for that many write operations, evenly spread (0 is every one), and as many random times, with
a fixed seed; the names are those of `tests/support/kill_commands.py`. Writes a table: moments tried, runs that were
equal once continued, and units of work (clips, stages, episodes, jobs, training steps) that were finished before the
kill and done again.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
DEFAULT = (
    "import_new=24",
    "import_add=16",
    "import_overwrite=16",
    "upgrade=30",
    "collect_new=40+20",
    "collect_overwrite=40+20",
    "probe_new=16",
    "probe_again=16",
    "study=93+20",
    "demo_new=16",
    "demo_overwrite=16",
    "train=20+20",
)

logger = logging.getLogger(__name__)


def run(request: str, folder: Path) -> list[dict]:
    """What became of each moment of a series."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_LEROBOT_HOME": str(folder / "home"),
        "SVT_LOG": "1",
    }
    command = [sys.executable, "-m", "support.kill_commands", str(folder), request]
    with (folder.with_suffix(".log")).open("wb") as log:
        result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=log, check=False)
    if result.returncode:
        raise RuntimeError(log.name + ": " + Path(log.name).read_text(errors="replace")[-2000:])
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith(b"{")]


def main() -> None:
    """Runs the series, and shows what was not equal."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logger.info("| command | write operations | moments | killed | resumed equal | units done again |")
    logger.info("|---|---|---|---|---|---|")
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        for request in sys.argv[1:] or DEFAULT:
            found = run(request, Path(folder) / request.split("=")[0])
            counts = (
                found[0]["of"],
                len(found),
                sum(each["killed"] for each in found),
                sum(each["equal"] for each in found),
                sum(len(each["lost"]) for each in found),
            )
            logger.info("| %s | %s |", found[0]["command"], " | ".join(map(str, counts)))
            wrong += [each for each in found if not each["equal"] or each["lost"]]
    for each in wrong:
        logger.info(json.dumps(each))


if __name__ == "__main__":
    main()
