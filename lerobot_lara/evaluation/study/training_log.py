"""Reads training curves from the console output of `lerobot-train`.

Without an experiment tracker, the console is the only place where the stock command reports its metrics; checkpoints
contain the step, but no losses. Values therefore have the three decimals that LeRobot prints.
"""

import re
from pathlib import Path

# Counters and timings in the line of LeRobot's `MetricsTracker`, which are not drawn as curves.
COUNTERS = {"smpl", "ep", "epch", "updt_s", "data_s", "smp/s", "mem_gb"}

_METRICS_LINE = re.compile(r"step:(?P<step>\S+) smpl:\S+ ep:\S+ epch:\S+ (?P<metrics>.*)")
_METRIC = re.compile(r"(\S+?):(\S+)")
_LOG_FREQUENCY = re.compile(r"'log_freq': (\d+)")
_RESUMED = re.compile(r"'checkpoint_path': '[^']*?(\d+)'")
_EVAL_LOSS = re.compile(r"step (\d+): eval_loss=(\S+)")

Curves = dict[str, list[tuple[int, float]]]


def parse_training_log(path: Path) -> Curves:
    """Reads every logged metric of a `lerobot-train` run.

    LeRobot prints steps of 1000 and more as "1K", "2K" and so on. These are counted from the step of the previous line,
    in units of the `log_freq` that the run printed with its configuration. Where a resumed run begins, the steps after
    its checkpoint are dropped: they were done again.

    Args:
        path: File with the captured standard output and error of the run.

    Returns:
        The logged (step, value) pairs of each metric, in order. Metrics are `loss`, `grdn`, `lr`, the policy's named
        losses and diagnostics, and `eval_loss` if the run held out episodes.

    Raises:
        ValueError: If a step is abbreviated and the log lacks the run's configuration, or a metric is no number.
    """
    curves: Curves = {}
    log_frequency = None
    step = 0
    # Progress bars redraw themselves with carriage returns, and log lines follow on the same terminal line.
    for line in re.split(r"[\r\n]", path.read_text(errors="replace")):
        if found := _LOG_FREQUENCY.search(line):
            log_frequency = int(found.group(1))
        elif found := _RESUMED.search(line):
            step = int(found.group(1))
            curves = {name: [point for point in curve if point[0] <= step] for name, curve in curves.items()}
        elif found := _METRICS_LINE.search(line):
            step = _next_step(found.group("step"), step, log_frequency, path)
            for name, value in _METRIC.findall(found.group("metrics")):
                if name not in COUNTERS:
                    curves.setdefault(name, []).append((step, _number(value, path)))
        elif found := _EVAL_LOSS.search(line):
            curves.setdefault("eval_loss", []).append((int(found.group(1)), _number(found.group(2), path)))
    return curves


def _number(text: str, path: Path) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged: it logs {text!r} where a number must be. Delete the folder of that training, and run "
            "the same command again."
        ) from error


def _next_step(text: str, previous: int, log_frequency: int | None, path: Path) -> int:
    if text.isdigit():
        return int(text)
    if not log_frequency:
        raise ValueError(
            f"{path} is incomplete: step {text!r} is abbreviated, and the run's configuration with log_freq is "
            "missing. Capture the whole output of lerobot-train."
        )
    return (previous // log_frequency + 1) * log_frequency
