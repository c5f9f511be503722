"""Pictures of frame pairs for the probe's report. Every drawing function writes one PNG and returns its path."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib import colormaps
from torch import Tensor

from lerobot_lara.backbones.images import resize
from lerobot_lara.evaluation.plotting import save_figure
from lerobot_lara.evaluation.probe.data import Pairs
from lerobot_lara.evaluation.probe.distractors import distractors
from lerobot_lara.evaluation.probe.gallery import Group, mean_change
from lerobot_lara.evaluation.probe.measure import Measurement
from lerobot_lara.evaluation.probe.model import ProbedModel
from lerobot_lara.lam.metrics import psnr

NUM_EXAMPLES = 5
# Side in inches of one frame in a mosaic.
CELL = 0.95


def distractor_examples(pairs: Pairs, path: Path, *, seed: int) -> Path:
    """Draws pairs as recorded, and with every distractor.

    Args:
        pairs: The pairs.
        path: PNG to write.
        seed: Seed of the measurement.
    """
    chosen = spread_over_motion(pairs, 4)
    rows = {"as recorded": pairs.images(chosen)}
    for name, change in distractors(seed, len(pairs)).items():
        # One by one, because a distractor takes a slice of the pairs.
        parts = [change(pairs.images(slice(i, i + 1)), slice(i, i + 1)) for i in chosen.tolist()]
        rows[name] = torch.cat(parts)
    titles = ["$o_t$", "$o_{t+K}$"] * len(chosen)
    return _mosaic([list(frames.flatten(0, 1)) for frames in rows.values()], titles, list(rows), path)


def example_predictions(model: ProbedModel, pairs: Pairs, measurement: Measurement, path: Path) -> Path:
    """Draws predictions for pairs with little to much motion, with their errors.

    Args:
        model: A model that decodes.
        pairs: The pairs.
        measurement: Measurement of the model.
        path: PNG to write.
    """
    chosen = spread_over_motion(pairs, NUM_EXAMPLES)
    frames = pairs.images(chosen)
    predicted = model.decode(frames[:, 0], measurement.latents.quantized[chosen])
    frames = resize(frames, predicted.shape[-1])
    return prediction_grid(frames[:, 0], frames[:, 1], predicted, path)


def prediction_grid(current: Tensor, future: Tensor, prediction: Tensor, path: Path) -> Path:
    """Draws o_t, o_{t+K}, the prediction, and the errors of the prediction and of copying o_t.

    Args:
        current: Frames o_t, (N, 3, H, W), RGB in [0, 1].
        future: Frames o_{t+K}, same shape.
        prediction: Predicted frames, same shape; values outside [0, 1] are clipped.
        path: PNG to write.
    """
    prediction = prediction.clamp(0, 1)
    titles = ["$o_t$", "$o_{t+K}$", "predicted", "|predicted − $o_{t+K}$|", "|$o_t$ − $o_{t+K}$| (copy)"]
    figure, grid = plt.subplots(
        len(current), len(titles), figsize=(1.75 * len(titles), 1.85 * len(current) + 0.3), squeeze=False
    )
    errors = [(frames - future).abs().mean(1).numpy() for frames in (prediction, current)]
    brightest = max(float(np.quantile(np.stack(errors), 0.999)), 1e-6)
    for row, panels in enumerate(grid):
        for panel, images in zip(panels, (current, future, prediction), strict=False):
            panel.imshow(images[row].permute(1, 2, 0).numpy(), interpolation="nearest")
        for panel, error in zip(panels[3:], errors, strict=True):
            panel.imshow(error[row], cmap="magma", vmin=0, vmax=brightest, interpolation="nearest")
        panels[3].set_xlabel(f"{psnr(prediction[[row]], future[[row]]).item():.1f} dB")
        panels[4].set_xlabel(f"{psnr(current[[row]], future[[row]]).item():.1f} dB")
    for panel, title in zip(grid[0], titles, strict=True):
        panel.set_title(title)
    for panel in grid.flat:
        panel.set_xticks([])
        panel.set_yticks([])
        panel.grid(visible=False)
    return save_figure(figure, path)


def transfer_strip(model: ProbedModel, pairs: Pairs, measurement: Measurement, path: Path) -> Path:
    """Draws the latents of moving pairs A applied to frames B of other episodes.

    Args:
        model: A model that decodes.
        pairs: The pairs.
        measurement: Measurement of the model.
        path: PNG to write.
    """
    quantized = measurement.latents.quantized
    source = _most_moving(pairs, NUM_EXAMPLES)
    frames = pairs.images(source)
    current = pairs.images(measurement.partners[source])[:, 0]
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
    """Draws for each group of similar latents its mean change and example pairs.

    Args:
        pairs: The pairs.
        groups: Groups of similar latents, at least one.
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
    """Chooses pairs from little to much motion.

    Args:
        pairs: The pairs.
        count: Number of pairs to choose.

    Returns:
        (count,) indices, ordered by motion.
    """
    order = np.argsort(_motion(pairs), kind="stable")
    return order[np.linspace(0.15 * (len(order) - 1), len(order) - 1, count).round().astype(int)]


def _most_moving(pairs: Pairs, count: int) -> np.ndarray:
    """Indices of pairs with much motion, from different episodes where possible."""
    order = np.argsort(-_motion(pairs), kind="stable")
    _, first = np.unique(pairs.episodes[order], return_index=True)
    best = order[np.sort(first)]
    # A random choice among the two thirds with the most motion: the very first often show the same kind of motion.
    best = best[: max(count, 2 * len(best) // 3)]
    return np.random.default_rng(0).permutation(best)[:count]


def _motion(pairs: Pairs) -> np.ndarray:
    """Mean absolute change of each pair, (N,)."""
    change = []
    for frames in pairs.frames.split(256):  # in parts, as floats take four times the memory
        small = resize(frames.float() / 255, 16)
        change.append((small[:, 1] - small[:, 0]).abs().mean((1, 2, 3)))
    return torch.cat(change).numpy()


def _mosaic(
    rows: Sequence[Sequence[Tensor]], titles: Sequence[str], labels: Sequence[str], path: Path
) -> Path:
    """Draws rows of images (3, H, W) in [0, 1] of any size as a single image; one axis per image would be slow."""
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
    return save_figure(figure, path)


def _signed(change: Tensor, limit: float) -> Tensor:
    """Colors a signed change (H, W) as (3, H, W): red above 0, blue below, saturated at the limit."""
    colored = colormaps["RdBu_r"]((change.numpy() / limit + 1) / 2)[..., :3]
    return torch.from_numpy(colored).permute(2, 0, 1)
