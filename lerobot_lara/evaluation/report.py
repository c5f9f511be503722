"""Writes the demo's report: one self-contained HTML page that states the results, whatever they are."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lerobot_lara.evaluation import figures
from lerobot_lara.evaluation.intervals import difference_p_value, wilson_interval
from lerobot_lara.evaluation.page import data_uri, render_template, video_source
from lerobot_lara.evaluation.study.result_files import reading_result
from lerobot_lara.evaluation.study.training_log import parse_training_log
from lerobot_lara.files.atomic import write_text

logger = logging.getLogger(__name__)

# The tasks count as learned if the best policy solves this share of all episodes.
LEARNED_RATE = 0.6
STRIP_FRAMES = 8
TRAINED_ARMS = ("lara_dit", "lara", "lara_labels", "lara_mixture")
# Folder of the latent action model's report by `lara probe`, below that of the study.
PROBE = "probe"
# Pairs of arms that are compared, the one that is expected to be better first.
COMPARISONS = (
    ("lara", "lara_dit"),
    ("lara_labels", "lara_dit"),
    ("lara_mixture", "lara_dit"),
    ("lara_mixture", "lara"),
)


def write_report(results: Mapping[str, Any], output_dir: Path) -> Path:
    """Draws the figures of a finished study and writes its page.

    Args:
        results: Content of `results.json`.
        output_dir: Folder of the study, from which logs, videos and measurements are read. Figures are written to
            `figures/` and embedded in `report.html`.

    Returns:
        Path of the page.
    """
    for check in (context := describe_results(results))["checks"]:
        if check["outcome"] == "failed":
            logger.warning("CHECK FAILED: %s: %s", check["name"], check["finding"])
    drawn = draw_figures(results, output_dir)
    page = output_dir / "report.html"
    videos = [
        (film.label, video_source(film.video, str(film.video.relative_to(output_dir))))
        for film in _films(results, output_dir)
    ]
    write_text(page, render_page(context, drawn, videos))
    return page


def render_page(
    context: Mapping[str, Any], drawn: Mapping[str, Path], videos: Sequence[tuple[str, str]] = ()
) -> str:
    """Renders the page.

    Args:
        context: Return value of `describe_results`.
        drawn: PNG of each figure, by name. Where a figure is missing, the page says so.
        videos: Label and source of each.

    Returns:
        The page.
    """
    images = {name: data_uri(path.read_bytes()) for name, path in drawn.items()}
    return render_template("report.html.j2", **context, images=images, videos=videos)


def describe_results(results: Mapping[str, Any]) -> dict[str, Any]:
    """Turns the study's numbers into the tables and sentences of the page.

    Args:
        results: Content of `results.json`.

    Returns:
        The page's variables: `rows` and `tasks` of the table of success rates, `checks` with `name`, `outcome` and
        `finding`, `verdicts` on the latent action model that are not among the checks, `comparisons` of the arms in one
        sentence each, `unsolved` arms and tasks, `minutes` of the whole study, and the `results` themselves.
    """
    arms = results["arms"]
    tasks = list(next(iter(arms.values())))
    totals = {arm: _total(counts.values()) for arm, counts in arms.items()}
    rows = [
        {
            "arm": arm,
            "label": figures.arm_label(arm),
            "color": figures.arm_color(arm),
            "cells": [_describe_counts(**counts[task]) for task in tasks],
            "total": _describe_counts(**totals[arm]),
        }
        for arm, counts in arms.items()
    ]
    unsolved = [
        f"{figures.arm_label(arm)} on {task} (0/{counts[task]['episodes']})"
        for arm, counts in arms.items()
        for task in tasks
        if arm != "zero" and counts[task]["successes"] == 0
    ]
    # The first of the probe's verdicts is whether latent actions carry motion.
    motion, *verdicts = results["latent_action_model"]["verdicts"]
    return {
        "results": results,
        "tasks": tasks,
        "rows": rows,
        "checks": [
            _check_learned(totals),
            _check_zero(arms["zero"]),
            motion,
        ],
        "verdicts": verdicts,
        "comparisons": [_compare(totals, *pair) for pair in COMPARISONS],
        "unsolved": unsolved,
        "minutes": results["wall_times"]["total"] / 60,
    }


def draw_figures(results: Mapping[str, Any], output_dir: Path) -> dict[str, Path]:
    """Draws every figure for which the study has data, and adds those that the probe has drawn.

    Args:
        results: Content of `results.json`.
        output_dir: Folder of the study.

    Returns:
        PNG of each figure, by name.
    """
    directory = output_dir / "figures"
    runs = {
        run: parse_training_log(output_dir / "jobs" / f"train_{run}.log")
        for run in ("lara_lam", *TRAINED_ARMS)
    }
    drawn = {"success": figures.success_bars(results["arms"], directory / "success.png")}
    for name in ("predictions", "latents"):
        if (path := output_dir / PROBE / "figures" / f"{name}_1.png").is_file():
            drawn[name] = path
    for name, chosen in {"lam_curves": ["lara_lam"], "policy_curves": TRAINED_ARMS}.items():
        if curves := {run: runs[run] for run in chosen if runs[run]}:
            drawn[name] = figures.training_curves(curves, directory / f"{name}.png")
    strips = [
        figures.FilmStrip(film.label, read_frames(film.video, STRIP_FRAMES), film.arm)
        for film in _films(results, output_dir)
    ]
    if strips:
        drawn["films"] = figures.film_strips(strips, directory / "films.png")
    return drawn


def read_frames(video: Path, num_frames: int) -> np.ndarray:
    """Reads evenly spaced frames of a video, including the first and the last.

    Args:
        video: Path of the video.
        num_frames: Number of frames.

    Returns:
        (num_frames, H, W, 3) uint8; all frames of a video that is shorter.
    """
    import av

    with av.open(str(video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    chosen = np.linspace(0, len(frames) - 1, min(num_frames, len(frames))).round().astype(int)
    return np.stack([frames[index] for index in chosen])


@dataclass(frozen=True)
class _Film:
    label: str
    video: Path
    arm: str


def _films(results: Mapping[str, Any], output_dir: Path) -> Iterable[_Film]:
    """Yields the first filmed success of each task and trained arm, or its first filmed episode if there is none."""
    for task in next(iter(results["arms"].values())):
        for arm in TRAINED_ARMS:
            with reading_result(output_dir / "eval" / arm / "eval_info.json") as info:
                (entry,) = (entry for entry in info["per_task"] if entry["task_group"] == task)
                directory = output_dir / "eval" / arm / "videos" / f"{task}_{int(entry['task_id'])}"
            videos = {
                episode: directory / f"eval_episode_{episode}.mp4"
                for episode in range(len(entry["metrics"]["successes"]))
            }
            solved = {
                episode: entry["metrics"]["successes"][episode]
                for episode, video in videos.items()
                if video.is_file()
            }
            if solved:
                episode = next((episode for episode, success in solved.items() if success), min(solved))
                outcome = "solved" if solved[episode] else "not solved"
                label = f"{task}, {figures.arm_label(arm)}, episode {episode}: {outcome}"
                yield _Film(label, videos[episode], arm)


def _total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    counts = list(counts)
    return {key: sum(count[key] for count in counts) for key in ("successes", "episodes")}


def _describe_counts(successes: int, episodes: int) -> dict[str, Any]:
    low, high = wilson_interval(successes, episodes)
    return {
        "counts": f"{successes}/{episodes}",
        "rate": f"{successes / episodes:.0%}",
        "interval": f"{100 * low:.0f}–{100 * high:.0f}",
    }


def _check_learned(totals: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    best = max(total["successes"] / total["episodes"] for arm, total in totals.items() if arm != "zero")
    return {
        "name": "The tasks are learned",
        "outcome": "passed" if best >= LEARNED_RATE else "failed",
        "finding": f"The best policy solves {best:.0%} of all episodes (at least {LEARNED_RATE:.0%} is needed)",
    }


def _check_zero(counts: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    solved = [
        f"{task} ({count['successes']}/{count['episodes']})"
        for task, count in counts.items()
        if count["successes"]
    ]
    finding = (
        f"A robot that does nothing is counted as successful on {', '.join(solved)}: success there proves nothing"
        if solved
        else f"A robot that does nothing solves 0 of {_total(counts.values())['episodes']} episodes"
    )
    outcome = "failed" if solved else "passed"
    return {"name": "Success is meaningful", "outcome": outcome, "finding": finding}


def _compare(totals: Mapping[str, Mapping[str, int]], first: str, second: str) -> str:
    counts = [(totals[arm]["successes"], totals[arm]["episodes"]) for arm in (first, second)]
    rates = [successes / episodes for successes, episodes in counts]
    labels = [figures.arm_label(arm) for arm in (first, second)]
    p_value = difference_p_value(*counts)
    numbers = ", ".join(
        f"{label} {count[0]}/{count[1]} ({rate:.0%})"
        for label, count, rate in zip(labels, counts, rates, strict=True)
    )
    if rates[0] == rates[1]:
        verdict = f"{labels[0]} and {labels[1]} are equal"
    else:
        better, worse = labels if rates[0] > rates[1] else reversed(labels)
        certainty = "more often than" if p_value < 0.05 else "more often than, but within noise of,"
        verdict = f"{better} solves the tasks {certainty} {worse}"
    return f"{verdict}: {numbers}; Fisher's exact test p = {p_value:.2g}."
