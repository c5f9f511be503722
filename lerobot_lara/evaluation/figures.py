"""Figures of the demo's report. Every function writes one PNG and returns its path."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from lerobot_lara.evaluation.intervals import wilson_interval
from lerobot_lara.evaluation.plotting import ERROR_BAR, save_figure
from lerobot_lara.evaluation.study.training_log import Curves

ARM_COLORS = {
    "zero": "#9aa3ad",
    "lara_dit": "#3f7cac",
    "lara": "#d9622b",
    "lara_labels": "#c9a227",
    "lara_mixture": "#8a4f9e",
    "lara_lam": "#5b8c5a",
}
ARM_LABELS = {
    "zero": "Zero policy",
    "lara_dit": "DiT only",
    "lara": "LARA",
    "lara_labels": "LARA on labels",
    "lara_mixture": "LARA on the mixture",
    "lara_lam": "Latent action model",
}

# Titles of metrics whose names do not read well.
_METRIC_LABELS = {
    "grdn": "gradient norm",
    "lr": "learning rate",
    "psnr": "PSNR (dB)",
    "lam_psnr": "LAM PSNR (dB)",
}
# Curves that belong together: the second is drawn dashed in the panel of the first.
_REFERENCE_CURVES = {"psnr": "copy_psnr", "lam_psnr": "lam_copy_psnr"}

Counts = Mapping[str, Mapping[str, Mapping[str, int]]]


def success_bars(arms: Counts, path: Path) -> Path:
    """Draws the success rate per task and arm, with 95 % Wilson intervals.

    Args:
        arms: {arm: {task: {"successes": ..., "episodes": ...}}}, with the same tasks for each arm.
        path: PNG to write.
    """
    tasks = list(next(iter(arms.values())))
    figure, axes = plt.subplots(figsize=(max(5.0, 1.9 * len(tasks) + 1.5), 3.2))
    width = 0.8 / len(arms)
    for position, (arm, counts) in enumerate(arms.items()):
        centers = np.arange(len(tasks)) + (position - (len(arms) - 1) / 2) * width
        rates = np.array([counts[task]["successes"] / counts[task]["episodes"] for task in tasks])
        bounds = np.array([wilson_interval(**counts[task]) for task in tasks])
        axes.bar(centers, rates, 0.92 * width, color=arm_color(arm), label=arm_label(arm))
        axes.errorbar(
            centers,
            rates,
            yerr=np.clip(np.stack([rates - bounds[:, 0], bounds[:, 1] - rates]), 0, None),
            fmt="none",
            ecolor=ERROR_BAR,
            elinewidth=1,
            capsize=3,
        )
        for center, task, upper in zip(centers, tasks, bounds[:, 1], strict=True):
            text = "{successes}/{episodes}".format(**counts[task])
            axes.annotate(
                text, (center, upper), (0, 3), textcoords="offset points", ha="center", fontsize=7.5
            )
    axes.set_xticks(range(len(tasks)), tasks)
    axes.set_ylim(0, 1.12)
    axes.set_yticks(np.linspace(0, 1, 6), [f"{percent} %" for percent in range(0, 101, 20)])
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("episodes solved")
    figure.legend(ncols=len(arms), loc="outside upper center")
    return save_figure(figure, path)


def training_curves(runs: Mapping[str, Curves], path: Path, *, skip: Sequence[str] = ("lr",)) -> Path:
    """Draws one small panel per logged metric, with the curves of all runs that log it.

    Args:
        runs: Curves of each run, by the name of the run.
        path: PNG to write.
        skip: Names of metrics that are left out.

    Raises:
        ValueError: If no run has logged any metric.
    """
    drawn_elsewhere = {
        reference
        for name, reference in _REFERENCE_CURVES.items()
        if any(name in curves for curves in runs.values())
    }
    names = [name for curves in runs.values() for name in curves]
    names = [name for name in dict.fromkeys(names) if name not in {*skip, *drawn_elsewhere}]
    if not names:
        raise ValueError(
            "`runs` is without any logged metric; it must have at least one. Train with a log_freq of at most steps."
        )
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(2.75 * columns, 1.95 * rows), squeeze=False)
    for panel, name in zip(grid.flat, names, strict=False):
        for run, curves in runs.items():
            if name in curves:
                panel.plot(*zip(*curves[name], strict=True), color=arm_color(run), label=arm_label(run))
            if (reference := _REFERENCE_CURVES.get(name)) in curves:
                (copy,) = panel.plot(
                    *zip(*curves[reference], strict=True), "--", color="#777", label="copy of o_t"
                )
                panel.legend(handles=[copy], fontsize=7.5)
        panel.set_title(_METRIC_LABELS.get(name, name.replace("lam_", "LAM ").replace("_", " ")))
    for panel in grid.flat[len(names) :]:
        panel.set_visible(False)
    for panel in grid[-1]:
        panel.set_xlabel("step")
    if len(runs) > 1:
        handles = [plt.Line2D([], [], color=arm_color(run), label=arm_label(run)) for run in runs]
        figure.legend(handles=handles, ncols=len(runs), loc="outside upper center")
    return save_figure(figure, path)


@dataclass(frozen=True)
class FilmStrip:
    """Frames of one episode.

    Args:
        label: What is shown, e.g. the task, the arm and the outcome.
        frames: (N, H, W, 3) uint8.
        arm: Arm whose color the label has.
    """

    label: str
    frames: np.ndarray
    arm: str


def film_strips(strips: Sequence[FilmStrip], path: Path) -> Path:
    """Draws one row of frames per episode, with time from left to right.

    Args:
        strips: Episodes; shorter ones leave the end of their row empty.
        path: PNG to write.
    """
    columns = max(len(strip.frames) for strip in strips)
    figure = plt.figure(figsize=(1.25 * columns, 1.52 * len(strips)))
    for row, strip in zip(figure.subfigures(len(strips), squeeze=False)[:, 0], strips, strict=True):
        row.suptitle(
            strip.label, x=0.005, ha="left", fontsize=9.5, color=arm_color(strip.arm), fontweight="bold"
        )
        for panel, frame in zip(row.subplots(1, columns, squeeze=False)[0], strip.frames, strict=False):
            panel.imshow(frame)
    for panel in figure.get_axes():
        panel.set_axis_off()
    return save_figure(figure, path)


def arm_color(arm: str) -> str:
    """Color of an arm or run."""
    return ARM_COLORS.get(arm, "#7a5195")


def arm_label(arm: str) -> str:
    """Name of an arm or run for readers."""
    return ARM_LABELS.get(arm, arm)
