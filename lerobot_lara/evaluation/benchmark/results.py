"""The figures of a benchmark: counts with intervals, and differences between agents on the same episodes."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scipy.stats import binomtest

from lerobot_lara.evaluation.benchmark.cell import CELL, VIDEOS
from lerobot_lara.evaluation.intervals import student_interval, wilson_interval
from lerobot_lara.evaluation.study.result_files import reading_result

if TYPE_CHECKING:
    from lerobot_lara.evaluation.benchmark.run import Benchmark


def collect_results(benchmark: "Benchmark", output_dir: Path) -> dict[str, Any]:
    """Reads the cells of a finished benchmark.

    Returns:
        `settings`; `agents`, by name and task and for "all", with `successes`, `episodes`, `rate`, `low` and `high` (95
        % Wilson interval), `mean_steps` and the rates of the parts of the task that were `reached`; `differences` of
        each two agents over all tasks (`compare`); `outcomes`, the success of every episode; `videos`, paths relative
        to the folder; and `remarks`, by name, what may spoil the figures.

    Raises:
        ValueError: A cell is missing or torn.
    """
    agents: dict[str, dict[str, Any]] = {}
    outcomes: dict[str, dict[str, list[bool]]] = {}
    videos: dict[str, dict[str, dict[str, str]]] = {}
    remarks: dict[str, str] = {}
    for agent in benchmark.agents:
        agents[agent], outcomes[agent], videos[agent] = {}, {}, {}
        played: list[dict[str, Any]] = []
        for task in benchmark.suite.tasks:
            folder = output_dir / "cells" / agent / task
            with reading_result(folder / CELL) as cell:
                episodes = [dict(episode) for episode in cell["episodes"]]
                agents[agent][task] = summarize(episodes)
                if cell.get("remark"):
                    remarks[agent] = cell["remark"]
            outcomes[agent][task] = [episode["success"] for episode in episodes]
            videos[agent][task] = {
                Path(name).stem: str((folder / name).relative_to(output_dir))
                for name in VIDEOS.values()
                if (folder / name).is_file()
            }
            played += episodes
        agents[agent]["all"] = summarize(played)
    return {
        "settings": asdict(benchmark),
        "agents": agents,
        "differences": [
            {"first": first, "second": second, **compare(outcomes[first], outcomes[second])}
            for first, second in itertools.combinations(benchmark.agents, 2)
        ],
        "outcomes": outcomes,
        "videos": videos,
        "remarks": remarks,
    }


def summarize(episodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Summarizes episodes.

    Args:
        episodes: At least one, each with `success`, `steps` and `reached`.
    """
    successes = sum(bool(episode["success"]) for episode in episodes)
    low, high = wilson_interval(successes, len(episodes))
    parts = dict.fromkeys(name for episode in episodes for name in episode["reached"])
    return {
        "successes": successes,
        "episodes": len(episodes),
        "rate": successes / len(episodes),
        "low": low,
        "high": high,
        "mean_steps": sum(episode["steps"] for episode in episodes) / len(episodes),
        "reached": {
            name: sum(bool(episode["reached"].get(name)) for episode in episodes) / len(episodes)
            for name in parts
        },
    }


def compare(first: Mapping[str, Sequence[bool]], second: Mapping[str, Sequence[bool]]) -> dict[str, Any]:
    """Compares two agents on the same episodes.

    Args:
        first: Task -> success of each episode.
        second: The same for the other agent.

    Returns:
        `difference` of the success rates with a 95 % interval from `low` to `high`, from the differences of the single
        episodes (None with only one); the numbers of episodes that `only_first` and `only_second` solved; and `p_value`
        of the exact McNemar test, two-sided, on these.
    """
    pairs = [(one, other) for task in first for one, other in zip(first[task], second[task], strict=True)]
    mean, low, high = student_interval(float(one) - float(other) for one, other in pairs)
    alone = len(pairs) < 2  # one episode gives no interval
    only_first = sum(one and not other for one, other in pairs)
    only_second = sum(other and not one for one, other in pairs)
    discordant = only_first + only_second
    return {
        "difference": mean,
        "low": None if alone else low,
        "high": None if alone else high,
        "only_first": only_first,
        "only_second": only_second,
        "p_value": float(binomtest(only_first, discordant).pvalue) if discordant else 1.0,
    }
