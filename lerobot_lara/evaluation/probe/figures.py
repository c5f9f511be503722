"""Charts of the probe's report. Every function writes one PNG and returns its path."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from lerobot_lara.evaluation.plotting import ERROR_BAR, save_figure
from lerobot_lara.evaluation.probe.action_probe import KINDS, ActionProbe
from lerobot_lara.evaluation.probe.bootstrap import Estimate
from lerobot_lara.evaluation.probe.latent_statistics import LatentStatistics, count_codes
from lerobot_lara.evaluation.probe.model import Latents
from lerobot_lara.evaluation.probe.prediction import Prediction

# Colors of the models, in the order in which they are listed.
COLORS = ("#5b8c5a", "#d9622b", "#3f7cac", "#8a4f9e", "#b7791f", "#5b6773")
KIND_TITLES = {"ridge": "linear probe (ridge)", "mlp": "MLP probe"}
NUM_BINS = 40


def action_probe_bars(probes: Mapping[str, ActionProbe], path: Path) -> Path:
    """Draws the R2 of the action chunk from every input, with 95 % intervals.

    Args:
        probes: Results by label of the model.
        path: PNG to write.
    """
    inputs = list(dict.fromkeys(source for probe in probes.values() for source in probe.r2["ridge"]))
    height = _height(len(inputs), len(probes))
    figure, panels = plt.subplots(1, len(KINDS), figsize=(8.6, height), sharey=True, sharex=True)
    for panel, kind in zip(panels, KINDS, strict=True):
        _bars(panel, inputs, {label: probe.r2[kind] for label, probe in probes.items()})
        panel.set_title(KIND_TITLES[kind])
        panel.set_xlabel("R² on held-out episodes")
    panels[0].invert_yaxis()
    _legend(panels[0], len(probes))
    return save_figure(figure, path)


def prediction_bars(predictions: Mapping[str, Prediction], path: Path) -> Path:
    """Draws PSNR, SSIM and LPIPS of predictions and of the trivial alternatives, with 95 % intervals.

    Args:
        predictions: Results by label of the model.
        path: PNG to write.
    """
    kinds = list(next(iter(predictions.values())).psnr)
    metrics = {"PSNR (dB), higher is better": "psnr", "SSIM, higher is better": "ssim"}
    if all(prediction.lpips is not None for prediction in predictions.values()):
        metrics["LPIPS, lower is better"] = "lpips"
    size = (1.2 + 2.5 * len(metrics), _height(len(kinds), len(predictions)))
    figure, panels = plt.subplots(1, len(metrics), figsize=size, sharey=True, squeeze=False)
    for panel, (title, metric) in zip(panels[0], metrics.items(), strict=True):
        estimates = {label: getattr(prediction, metric) for label, prediction in predictions.items()}
        _bars(panel, kinds, estimates)
        panel.set_xlabel(title)
        if metric != "lpips":
            # Bars that start at 0 would hide the differences.
            values = [each for model in estimates.values() for each in model.values()]
            low, high = min(each.low for each in values), max(each.high for each in values)
            panel.set_xlim(low - 0.35 * (high - low) - 1e-3, high + 0.1 * (high - low) + 1e-3)
    panels[0, 0].invert_yaxis()
    _legend(panels[0, 0], len(predictions))
    return save_figure(figure, path)


def latent_usage(
    latents: Latents, statistics: LatentStatistics, path: Path, *, color: str = COLORS[0]
) -> Path:
    """Draws how much of the latent space is in use.

    The panels are the distribution of each dimension, the variance of the principal components and, for a quantized
    model, the uses of the codes.

    Args:
        latents: Latents of the pairs.
        statistics: Statistics of these latents.
        path: PNG to write.
        color: Color of the bars.
    """
    values, quantized = latents.continuous.numpy(), statistics.codebook_size is not None
    figure, panels = plt.subplots(1, 2 + quantized, figsize=(8.2, 2.7))
    low, high = np.quantile(values, [0.001, 0.999])
    histograms = np.stack([np.histogram(column, NUM_BINS, (low, high))[0] for column in values.T], axis=1)
    panels[0].imshow(
        histograms / len(values),
        aspect="auto",
        origin="lower",
        extent=(-0.5, values.shape[1] - 0.5, low, high),
        cmap="Greens",
    )
    panels[0].set(xlabel="latent dimension", ylabel="value", title="distribution per dimension")
    panels[0].grid(visible=False)

    variances = np.linalg.eigvalsh(np.cov(values, rowvar=False))[::-1].clip(min=0)
    share = variances / max(variances.sum(), np.finfo(float).tiny)
    panels[1].bar(np.arange(1, len(share) + 1), 100 * share, color=color)
    panels[1].set(
        xlabel="principal component",
        ylabel="% of variance",
        title=f"effective rank {statistics.effective_rank:.1f} of {statistics.dimensions}",
    )
    if statistics.codebook_size is not None:
        ranked = np.sort(count_codes(latents, statistics.codebook_size))[::-1]
        panels[2].bar(np.arange(1, len(ranked) + 1), ranked, color=color, width=1.0)
        panels[2].set(
            xlabel="code, by rank",
            ylabel="uses",
            title=f"{statistics.live_codes} of {statistics.codebook_size} codes, "
            f"perplexity {statistics.codebook_perplexity:.1f}",
        )
    return save_figure(figure, path)


def _bars(panel: Axes, rows: Sequence[str], models: Mapping[str, Mapping[str, Estimate]]) -> None:
    """Horizontal bars with 95 % intervals, a bar per row and model."""
    width = 0.8 / len(models)
    for position, (label, estimates) in enumerate(models.items()):
        known = [row for row in rows if row in estimates]
        centers = np.array([rows.index(row) for row in known]) + (position - (len(models) - 1) / 2) * width
        values = np.array([estimates[row].value for row in known])
        bounds = np.array([[estimates[row].low, estimates[row].high] for row in known])
        panel.barh(centers, values, 0.9 * width, color=COLORS[position % len(COLORS)], label=label)
        panel.errorbar(
            values,
            centers,
            xerr=np.clip(np.stack([values - bounds[:, 0], bounds[:, 1] - values]), 0, None),
            fmt="none",
            ecolor=ERROR_BAR,
            elinewidth=1,
            capsize=2,
        )
    panel.set_yticks(range(len(rows)), rows)
    panel.grid(axis="y", visible=False)


def _height(num_rows: int, num_models: int) -> float:
    """Height in inches of a chart with a bar per row and model."""
    return 0.6 + num_rows * (0.16 * num_models + 0.16) + 0.25 * (num_models > 1)


def _legend(panel: Axes, num_models: int) -> None:
    """Names the models above the panels, if there are several."""
    if num_models > 1:
        panel.figure.legend(*panel.get_legend_handles_labels(), ncols=num_models, loc="outside upper center")
