"""Figures of the demo's report. Every function writes one PNG and returns its path."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from lerobot_lara.evaluation.intervals import wilson_interval
from lerobot_lara.evaluation.study.training_log import Curves
from lerobot_lara.lam.metrics import effective_rank

ARM_COLORS = {
    "zero": "#9aa3ad",
    "lara_dit": "#3f7cac",
    "lara": "#d9622b",
    "lara_mixture": "#8a4f9e",
    "lara_lam": "#5b8c5a",
}
ARM_LABELS = {
    "zero": "Zero policy",
    "lara_dit": "DiT only",
    "lara": "LARA",
    "lara_mixture": "LARA on the mixture",
    "lara_lam": "Latent action model",
}
DPI = 130

# Titles of metrics whose name does not read well.
_METRIC_LABELS = {
    "grdn": "gradient norm",
    "lr": "learning rate",
    "psnr": "PSNR (dB)",
    "lam_psnr": "LAM PSNR (dB)",
}
# Curves that say most when drawn together: the second is drawn dashed into the panel of the first.
_REFERENCE_CURVES = {"psnr": "copy_psnr", "lam_psnr": "lam_copy_psnr"}

plt.rcParams.update(
    {
        "font.size": 9,
        "axes.titlesize": 9.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#777",
        "axes.grid": True,
        "grid.color": "#e4e7ea",
        "axes.axisbelow": True,
        "figure.constrained_layout.use": True,
        "legend.frameon": False,
    }
)

Counts = Mapping[str, Mapping[str, Mapping[str, int]]]


def success_bars(arms: Counts, path: Path) -> Path:
    """Success rate per task and arm, with 95 % Wilson intervals.

    Args:
        arms: {arm: {task: {"successes": ..., "episodes": ...}}}, the same tasks for each arm.
        path: PNG to write.
    """
    tasks = list(next(iter(arms.values())))
    figure, axes = plt.subplots(figsize=(max(5.0, 1.9 * len(tasks) + 1.5), 3.2))
    width = 0.8 / len(arms)
    for position, (arm, counts) in enumerate(arms.items()):
        centers = np.arange(len(tasks)) + (position - (len(arms) - 1) / 2) * width
        rates = np.array([counts[task]["successes"] / counts[task]["episodes"] for task in tasks])
        bounds = np.array([wilson_interval(**counts[task]) for task in tasks])
        axes.bar(centers, rates, 0.92 * width, color=_color(arm), label=_label(arm))
        axes.errorbar(
            centers,
            rates,
            yerr=np.clip(np.stack([rates - bounds[:, 0], bounds[:, 1] - rates]), 0, None),
            fmt="none",
            ecolor="#333",
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
    return _save(figure, path)


def training_curves(runs: Mapping[str, Curves], path: Path, *, skip: Sequence[str] = ("lr",)) -> Path:
    """One small panel per logged metric, with the runs that log it drawn over each other.

    Args:
        runs: Curves of each run, by policy type.
        path: PNG to write.
        skip: Metrics that are left out.

    Raises:
        ValueError: If no run has logged anything.
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
            "There are no training curves: the runs' logs hold no metrics. Is log_freq above steps?"
        )
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(2.75 * columns, 1.95 * rows), squeeze=False)
    for panel, name in zip(grid.flat, names, strict=False):
        for run, curves in runs.items():
            if name in curves:
                panel.plot(*zip(*curves[name], strict=True), color=_color(run), label=_label(run))
            if (reference := _REFERENCE_CURVES.get(name)) in curves:
                (copy,) = panel.plot(
                    *zip(*curves[reference], strict=True), "--", color="#777", label="copy o_t"
                )
                panel.legend(handles=[copy], fontsize=7.5)
        panel.set_title(_METRIC_LABELS.get(name, name.replace("lam_", "LAM ").replace("_", " ")))
    for panel in grid.flat[len(names) :]:
        panel.set_visible(False)
    for panel in grid[-1]:
        panel.set_xlabel("step")
    if len(runs) > 1:
        handles = [plt.Line2D([], [], color=_color(run), label=_label(run)) for run in runs]
        figure.legend(handles=handles, ncols=len(runs), loc="outside upper center")
    return _save(figure, path)


def prediction_grid(
    current: np.ndarray, future: np.ndarray, prediction: np.ndarray, path: Path, *, caption: str = "predicted"
) -> Path:
    """Held-out frame pairs: o_t, o_{t+K}, the prediction, and the errors of prediction and copy.

    Args:
        current: Frames o_t, (N, 3, H, W), RGB in [0, 1].
        future: Frames o_{t+K}, same shape.
        prediction: Predicted frames, same shape; values outside [0, 1] are clipped.
        path: PNG to write.
        caption: Title of the prediction's column.
    """
    prediction = prediction.clip(0, 1)
    titles = ["$o_t$", "$o_{t+K}$", caption, "|predicted − $o_{t+K}$|", "|$o_t$ − $o_{t+K}$| (copy)"]
    figure, grid = plt.subplots(
        len(current), len(titles), figsize=(1.75 * len(titles), 1.85 * len(current) + 0.3), squeeze=False
    )
    errors = np.abs(prediction - future).mean(1), np.abs(current - future).mean(1)
    brightest = max(float(np.quantile(np.stack(errors), 0.999)), 1e-6)
    for row, panels in enumerate(grid):
        for panel, images in zip(panels, (current, future, prediction), strict=False):
            panel.imshow(images[row].transpose(1, 2, 0), interpolation="nearest")
        for panel, error in zip(panels[3:], errors, strict=True):
            panel.imshow(error[row], cmap="magma", vmin=0, vmax=brightest, interpolation="nearest")
        panels[3].set_xlabel(f"{_psnr(prediction[row], future[row]):.1f} dB")
        panels[4].set_xlabel(f"{_psnr(current[row], future[row]):.1f} dB")
    for panel, title in zip(grid[0], titles, strict=True):
        panel.set_title(title)
    for panel in grid.flat:
        panel.set_xticks([])
        panel.set_yticks([])
        panel.grid(visible=False)
    return _save(figure, path)


def latent_usage(latents: np.ndarray, path: Path, *, code_counts: np.ndarray | None = None) -> Path:
    """How much of the latent space is in use.

    Args:
        latents: Latent actions, (N, D), flattened over tokens.
        path: PNG to write.
        code_counts: Number of uses of each code, (codebook_size,), for a quantized model.
    """
    figure, panels = plt.subplots(1, 2 + (code_counts is not None), figsize=(8.2, 2.7))
    num_bins = 40
    low, high = np.quantile(latents, [0.001, 0.999])
    histograms = np.stack([np.histogram(column, num_bins, (low, high))[0] for column in latents.T], axis=1)
    panels[0].imshow(
        histograms / len(latents),
        aspect="auto",
        origin="lower",
        extent=(-0.5, latents.shape[1] - 0.5, low, high),
        cmap="Greens",
    )
    panels[0].set(xlabel="latent dimension", ylabel="value", title="distribution per dimension")
    panels[0].grid(visible=False)

    variances = np.linalg.eigvalsh(np.cov(latents, rowvar=False))[::-1].clip(min=0)
    share = variances / max(variances.sum(), np.finfo(float).tiny)
    rank = effective_rank(torch.from_numpy(latents).unsqueeze(1)).item()
    panels[1].bar(np.arange(1, len(share) + 1), 100 * share, color=ARM_COLORS["lara_lam"])
    panels[1].set(
        xlabel="principal component",
        ylabel="% of variance",
        title=f"effective rank {rank:.1f} of {len(share)}",
    )
    if code_counts is not None:
        ranked = np.sort(code_counts)[::-1]
        panels[2].bar(np.arange(1, len(ranked) + 1), ranked, color=ARM_COLORS["lara_lam"], width=1.0)
        panels[2].set(
            xlabel="code, by rank",
            ylabel="uses",
            title=f"{np.count_nonzero(code_counts)} of {len(code_counts)} codes, "
            f"perplexity {code_perplexity(code_counts):.1f}",
        )
    return _save(figure, path)


@dataclass(frozen=True)
class FilmStrip:
    """Frames of one episode.

    Args:
        label: What is shown, such as the task, the arm and the outcome.
        frames: (N, H, W, 3), uint8.
        arm: Decides the color of the label.
    """

    label: str
    frames: np.ndarray
    arm: str


def film_strips(strips: Sequence[FilmStrip], path: Path) -> Path:
    """One row of frames per episode, with time from left to right.

    Args:
        strips: Episodes with equally many frames.
        path: PNG to write.
    """
    columns = max(len(strip.frames) for strip in strips)
    figure = plt.figure(figsize=(1.25 * columns, 1.52 * len(strips)))
    for row, strip in zip(figure.subfigures(len(strips), squeeze=False)[:, 0], strips, strict=True):
        row.suptitle(
            strip.label, x=0.005, ha="left", fontsize=9.5, color=_color(strip.arm), fontweight="bold"
        )
        for panel, frame in zip(row.subplots(1, columns, squeeze=False)[0], strip.frames, strict=False):
            panel.imshow(frame)
    for panel in figure.get_axes():
        panel.set_axis_off()
    return _save(figure, path)


def code_perplexity(counts: np.ndarray) -> float:
    """Exponential of the entropy of code usage: the number of codes that would be in use if all were used alike.

    Args:
        counts: Uses of each code, (codebook_size,).
    """
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _psnr(image: np.ndarray, target: np.ndarray) -> float:
    return float(-10 * np.log10(max(np.square(image - target).mean(), 1e-10)))


def _color(arm: str) -> str:
    return ARM_COLORS.get(arm, "#7a5195")


def _label(arm: str) -> str:
    return ARM_LABELS.get(arm, arm)


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
    return path
