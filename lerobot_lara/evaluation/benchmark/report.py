"""The page of a benchmark, with its videos, and the table for a model card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lerobot_lara.evaluation.benchmark.agents import EXPERT, ZERO
from lerobot_lara.evaluation.figures import FilmStrip, film_strips
from lerobot_lara.evaluation.page import data_uri, render_template, video_source
from lerobot_lara.evaluation.report import STRIP_FRAMES, read_frames
from lerobot_lara.files.atomic import write_text

PAGE = "report.html"
_OUTCOMES = {"first_success": "solved", "first_failure": "not solved"}


def write_report(results: Mapping[str, Any], output_dir: Path) -> Path:
    """Writes `report.html`, which is self-contained, and `table.md`.

    Args:
        results: What `collect_results` gives.
        output_dir: Folder of the benchmark, for its videos.

    Returns:
        Path of the page.
    """
    write_text(output_dir / "table.md", markdown_table(results))
    strips = [
        FilmStrip(
            f"{task}, {agent}: {_OUTCOMES[name]}",
            read_frames(output_dir / path, STRIP_FRAMES),
            agent,
        )
        for agent, tasks in results["videos"].items()
        if agent != ZERO
        for task, videos in tasks.items()
        for name, path in videos.items()
    ]
    drawn = None
    if strips:
        drawn = data_uri(film_strips(strips, output_dir / "films.png").read_bytes())
    page = output_dir / PAGE
    write_text(
        page,
        render_template(
            "benchmark.html.j2",
            results=results,
            columns=[*results["settings"]["suite"]["tasks"], "all"],
            notices=notices(results),
            comparisons=[describe_difference(entry) for entry in results["differences"] if _is_told(entry)],
            films=drawn,
            videos=[
                (f"{task}, {agent}: {_OUTCOMES[name]}", video_source(output_dir / path, path))
                for agent, tasks in results["videos"].items()
                if agent != ZERO
                for task, videos in tasks.items()
                for name, path in videos.items()
            ],
        ),
    )
    return page


def notices(results: Mapping[str, Any]) -> list[str]:
    """What speaks against believing the figures."""
    found = [f"{agent}: {remark}" for agent, remark in results["remarks"].items()]
    agents = results["agents"]
    if ZERO in agents and (solved := agents[ZERO]["all"]["successes"]):
        found.append(
            f"A robot that does nothing is counted as successful in {solved} of {agents[ZERO]['all']['episodes']} "
            "episodes: success there proves nothing."
        )
    if EXPERT in agents:
        weak = [
            f"{task} ({agents[EXPERT][task]['successes']}/{agents[EXPERT][task]['episodes']})"
            for task in results["settings"]["suite"]["tasks"]
            if agents[EXPERT][task]["rate"] < 0.5
        ]
        if weak:
            found.append(f"The scripted expert fails on most episodes of {', '.join(weak)}.")
    return found


def describe_difference(entry: Mapping[str, Any]) -> str:
    """One sentence about two agents."""
    points = 100 * entry["difference"]
    if entry["low"] is None:
        return (
            f"{entry['first']} − {entry['second']}: {points:+.0f} points in one episode, which can be chance."
        )
    low, high = 100 * entry["low"], 100 * entry["high"]
    certain = low > 0 or high < 0
    return (
        f"{entry['first']} − {entry['second']}: {points:+.0f} points (95 % interval {low:+.0f} to {high:+.0f}; "
        f"{entry['only_first']} episodes were solved by the first only, {entry['only_second']} by the second only, "
        f"p = {entry['p_value']:.2g}){'' if certain else ', which can be chance'}."
    )


def markdown_table(results: Mapping[str, Any]) -> str:
    """The table of success rates for a model card, in Markdown."""
    settings = results["settings"]
    columns = [*settings["suite"]["tasks"], "all"]
    lines = [
        f"Success in percent with 95 % Wilson intervals, {settings['episodes']} episodes per task "
        f"(`{settings['suite']['env_type']}`, seeds from {settings['seed']}).",
        "",
        f"| | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for agent, tasks in results["agents"].items():
        cells = [
            f"{100 * tasks[column]['rate']:.0f} ({100 * tasks[column]['low']:.0f}–{100 * tasks[column]['high']:.0f})"
            for column in columns
        ]
        lines.append(f"| {agent} | {' | '.join(cells)} |")
    if settings["suite"]["note"]:
        lines += ["", settings["suite"]["note"]]
    return "\n".join(lines) + "\n"


def _is_told(entry: Mapping[str, Any]) -> bool:
    """Whether a difference is worth a sentence: those between policies are."""
    return not {entry["first"], entry["second"]} & {ZERO, EXPERT}
