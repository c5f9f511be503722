"""Figures of the probe's report. Every function writes one PNG and returns its path."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lerobot_lara.backbones.images import resize
from lerobot_lara.evaluation.figures import DPI, prediction_grid
from lerobot_lara.evaluation.probe.action_probe import KINDS, ActionProbe
from lerobot_lara.evaluation.probe.bootstrap import Estimate
from lerobot_lara.evaluation.probe.data import Pairs
from lerobot_lara.evaluation.probe.distractors import distractors
from lerobot_lara.evaluation.probe.gallery import Group, mean_change
from lerobot_lara.evaluation.probe.measure import Measurement
from lerobot_lara.evaluation.probe.model import ProbedModel
from lerobot_lara.evaluation.probe.prediction import Prediction

COLORS = ("#5b8c5a", "#d9622b", "#3f7cac", "#8a4f9e", "#b7791f", "#5b6773")
KIND_TITLES = {"ridge": "linear probe (ridge)", "mlp": "MLP probe"}
NUM_EXAMPLES = 5
# Side in inches of one frame.
CELL = 0.95


def action_probe_bars(probes: Mapping[str, ActionProbe], path: Path) -> Path:
    """R2 of the action chunk from every input, with 95 % intervals.

    Args:
        probes: By label of the model.
        path: PNG to write.
    """
    inputs = list(dict.fromkeys(source for probe in probes.values() for source in probe.r2["ridge"]))
    height = 0.55 + len(inputs) * (0.16 * len(probes) + 0.16) + 0.25 * (len(probes) > 1)
    figure, panels = plt.subplots(1, len(KINDS), figsize=(8.6, height), sharey=True, sharex=True)
    for panel, kind in zip(panels, KINDS, strict=True):
        _bars(panel, inputs, {label: probe.r2[kind] for label, probe in probes.items()})
        panel.set_title(KIND_TITLES[kind])
        panel.set_xlabel("R² on held-out episodes")
    panels[0].invert_yaxis()
    if len(probes) > 1:
        figure.legend(*panels[0].get_legend_handles_labels(), ncols=len(probes), loc="outside upper center")
    return _save(figure, path)


def prediction_bars(predictions: Mapping[str, Prediction], path: Path) -> Path:
    """PSNR, SSIM and LPIPS of predictions and of the trivial alternatives, with 95 % intervals.

    Args:
        predictions: By label of the model.
        path: PNG to write.
    """
    kinds = list(next(iter(predictions.values())).psnr)
    metrics = {"PSNR (dB), higher is nearer": "psnr", "SSIM, higher is nearer": "ssim"}
    if all(prediction.lpips is not None for prediction in predictions.values()):
        metrics["LPIPS, lower is nearer"] = "lpips"
    height = 0.6 + len(kinds) * (0.16 * len(predictions) + 0.16) + 0.25 * (len(predictions) > 1)
    figure, panels = plt.subplots(
        1, len(metrics), figsize=(1.2 + 2.5 * len(metrics), height), sharey=True, squeeze=False
    )
    for panel, (title, metric) in zip(panels[0], metrics.items(), strict=True):
        estimates = {label: getattr(prediction, metric) for label, prediction in predictions.items()}
        _bars(panel, kinds, estimates)
        panel.set_xlabel(title)
        if metric != "lpips":
            # Bars from 0 would hide the differences.
            values = [each for model in estimates.values() for each in model.values()]
            low, high = min(each.low for each in values), max(each.high for each in values)
            panel.set_xlim(low - 0.35 * (high - low) - 1e-3, high + 0.1 * (high - low) + 1e-3)
    panels[0, 0].invert_yaxis()
    if len(predictions) > 1:
        figure.legend(
            *panels[0, 0].get_legend_handles_labels(), ncols=len(predictions), loc="outside upper center"
        )
    return _save(figure, path)


def distractor_examples(pairs: Pairs, path: Path, *, seed: int) -> Path:
    """Pairs as they are, and with every distractor.

    Args:
        pairs: The pairs.
        path: PNG to write.
        seed: The one of the measurement.
    """
    chosen = spread_over_motion(pairs, 4)
    rows = {"as recorded": pairs.images(chosen)}
    for name, change in distractors(seed, len(pairs)).items():
        # One by one, as the distractor is told which pairs it gets by a slice.
        parts = [change(pairs.images(slice(i, i + 1)), slice(i, i + 1)) for i in chosen.tolist()]
        rows[name] = torch.cat(parts)
    titles = ["$o_t$", "$o_{t+K}$"] * len(chosen)
    return _mosaic([list(frames.flatten(0, 1)) for frames in rows.values()], titles, list(rows), path)


def example_predictions(model: ProbedModel, pairs: Pairs, measurement: Measurement, path: Path) -> Path:
    """Predictions across the range of motion, with their errors.

    Args:
        model: One that decodes.
        pairs: The pairs.
        measurement: Of the model.
        path: PNG to write.
    """
    chosen = spread_over_motion(pairs, NUM_EXAMPLES)
    frames = pairs.images(chosen)
    predicted = model.decode(frames[:, 0], measurement.latents.quantized[chosen])
    frames = resize(frames, predicted.shape[-1])
    return prediction_grid(frames[:, 0].numpy(), frames[:, 1].numpy(), predicted.numpy(), path)


def transfer_strip(model: ProbedModel, pairs: Pairs, measurement: Measurement, path: Path) -> Path:
    """Latents of moving pairs A, applied to frames B of other episodes.

    Args:
        model: One that decodes.
        pairs: The pairs.
        measurement: Of the model.
        path: PNG to write.
    """
    quantized = measurement.latents.quantized
    source = _most_moving(pairs, NUM_EXAMPLES)
    target = measurement.partners[source]
    frames = pairs.images(source)
    current = pairs.images(target)[:, 0]
    predicted = model.decode(current, quantized[source]).clamp(0, 1)
    neutral = model.decode(current, quantized.mean(0, keepdim=True).expand(len(source), -1)).clamp(0, 1)
    size = predicted.shape[-1]
    moved = (resize(frames[:, 1], size) - resize(frames[:, 0], size)).mean(1)
    applied = (predicted - neutral).mean(1)
    titles = [
        "A: $o_t$",
        "A: $o_{t+K}$",
        "A: change",
        "B",
        "B after A's\nlatent",
        "B after the\nmean latent",
        "effect\non B",
    ]
    limits = [max(float(each.abs().quantile(0.995)), 0.02) for each in (moved, applied)]
    rows = [
        [
            *frames[row],
            _signed(moved[row], limits[0]),
            current[row],
            predicted[row],
            neutral[row],
            _signed(applied[row], limits[1]),
        ]
        for row in range(len(source))
    ]
    return _mosaic(rows, titles, [""] * len(rows), path)


def pair_gallery(pairs: Pairs, groups: Sequence[Group], path: Path) -> Path:
    """For each group of similar latents its mean change, and example pairs.

    Args:
        pairs: The pairs.
        groups: At least one.
        path: PNG to write.
    """
    examples = max(len(group.examples) for group in groups)
    changes = [mean_change(pairs, group.members) for group in groups]
    limit = max(float(np.quantile(np.abs(changes), 0.998)), 0.01)
    rows = [
        [_signed(torch.from_numpy(change), limit), *pairs.images(group.examples).flatten(0, 1)]
        for group, change in zip(groups, changes, strict=True)
    ]
    titles = ["mean\nchange", *["$o_t$", "$o_{t+K}$"] * examples]
    return _mosaic(rows, titles, [group.title for group in groups], path)


def spread_over_motion(pairs: Pairs, count: int) -> np.ndarray:
    """Indices of pairs from little to much motion."""
    order = np.argsort(_motion(pairs), kind="stable")
    return order[np.linspace(0.15 * (len(order) - 1), len(order) - 1, count).round().astype(int)]


def _most_moving(pairs: Pairs, count: int) -> np.ndarray:
    """Indices of pairs with much motion, of different episodes where possible."""
    order = np.argsort(-_motion(pairs), kind="stable")
    _, first = np.unique(pairs.episodes[order], return_index=True)
    best = order[np.sort(first)]
    # Some of the more lively two thirds: the liveliest of all are often of one kind.
    best = best[: max(count, 2 * len(best) // 3)]
    return np.random.default_rng(0).permutation(best)[:count]


def _motion(pairs: Pairs) -> np.ndarray:
    change = []
    for frames in pairs.frames.split(256):  # in parts, as floats take four times the memory
        small = resize(frames.float() / 255, 16)
        change.append((small[:, 1] - small[:, 0]).abs().mean((1, 2, 3)))
    return torch.cat(change).numpy()


def _bars(panel: Axes, rows: Sequence[str], models: Mapping[str, Mapping[str, Estimate]]) -> None:
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
            ecolor="#333",
            elinewidth=1,
            capsize=2,
        )
    panel.set_yticks(range(len(rows)), rows)
    panel.grid(axis="y", visible=False)


def _mosaic(
    rows: Sequence[Sequence[torch.Tensor]], titles: Sequence[str], labels: Sequence[str], path: Path
) -> Path:
    """Rows of pictures (3, H, W) in [0, 1] of any size, drawn as one: an axis for each would take long."""
    size = max(image.shape[-1] for row in rows for image in row)
    step = size + max(2, size // 12)
    canvas = np.ones((step * len(rows), step * len(titles), 3))
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            enlarged = torch.nn.functional.interpolate(
                image[None].float(), size=(size, size), mode="nearest"
            )[0]
            top, left = step * row, step * column
            canvas[top : top + size, left : left + size] = enlarged.clamp(0, 1).permute(1, 2, 0)
    label_width = 1.3 if any(labels) else 0.1
    figure, panel = plt.subplots(figsize=(CELL * len(titles) + label_width, CELL * len(rows) + 0.5))
    panel.imshow(canvas, interpolation="nearest")
    panel.xaxis.tick_top()
    panel.set_xticks(step * np.arange(len(titles)) + size / 2, titles)
    panel.set_yticks(step * np.arange(len(rows)) + size / 2, labels)
    panel.tick_params(length=0, labelsize=8.5)
    panel.spines[:].set_visible(False)
    panel.grid(visible=False)
    return _save(figure, path)


def _signed(change: torch.Tensor, limit: float) -> torch.Tensor:
    """A signed change (H, W) in colors, (3, H, W): red above 0, blue below, full at the limit."""
    colored = matplotlib.colormaps["RdBu_r"]((change.numpy() / limit + 1) / 2)[..., :3]
    return torch.from_numpy(colored).permute(2, 0, 1)


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
    return path
