"""Measures what a `moto_gpt` knows of held-out codes, and what its predicted codes are worth as pictures.

    python benchmarks/refinement/measure.py --policy=<checkpoint> --labels=<its labels of the demonstrations> \
        --placebo=<checkpoint on codes of others> --placebo_labels=<its labels> --root=<demonstrations> \
        --first_episode=30 --output_dir=<folder> [--lam=<the codes' latent action model>]

Codes of one pair predict one another, so their likelihood alone says little. What the image tells is the difference to
a placebo: a policy that was trained for as long on the same codes, each pair's moved to another pair.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from lerobot.datasets import LeRobotDataset
from lerobot.policies.factory import make_pre_post_processors
from torch import Tensor

from lerobot_lara.alignment.checkpoint_lam import find_lam
from lerobot_lara.backbones.images import resize
from lerobot_lara.batch.keys import LATENT_CODES, LATENT_CODES_IS_PAD
from lerobot_lara.batch.label_request import LabelRequest
from lerobot_lara.data.latent_labels.join import LabelJoin
from lerobot_lara.data.latent_labels.labels import LatentLabels
from lerobot_lara.evaluation.plotting import save_figure
from lerobot_lara.lam.metrics import psnr
from lerobot_lara.moto_gpt.modeling_moto_gpt import MotoGPTPolicy

EVERY = 4
BATCH_SIZE = 64
NUM_EXAMPLES = 6


class HeldOutFrames:
    """Batches of the frames of held-out demonstrations that have a pair within their episode.

    Args:
        root: Folder of the dataset.
        first_episode: First held-out episode; all later ones are held out too.
        gap: K, in frames.
    """

    def __init__(self, root: Path, first_episode: int, gap: int) -> None:
        self._dataset = LeRobotDataset(root.name, root=root)
        self._gap = gap
        episodes = self._dataset.meta.episodes
        self._samples = [
            (index, end - index)
            for start, end in list(
                zip(episodes["dataset_from_index"], episodes["dataset_to_index"], strict=True)
            )[first_episode:]
            for index in range(start, end - gap, EVERY)
        ]

    def __len__(self) -> int:
        """Number of frames."""
        return len(self._samples)

    def batches(self, join: LabelJoin) -> Iterator[dict[str, Any]]:
        """Samples as the dataset has them, with codes."""
        for first in range(0, len(self), BATCH_SIZE):
            samples = self._samples[first : first + BATCH_SIZE]
            yield torch.utils.data.default_collate(
                [self._dataset[index] | join(index, remaining) for index, remaining in samples]
            )

    def pairs(self, camera: str) -> Tensor:
        """(N, 2, 3, H, W) frames o_t and o_{t+K} of all samples, RGB in [0, 1]."""
        return torch.stack(
            [
                torch.stack([self._dataset[index][camera], self._dataset[index + self._gap][camera]])
                for index, _ in self._samples
            ]
        )


def read(checkpoint: Path) -> tuple[MotoGPTPolicy, Any]:
    """A policy and its preprocessor."""
    policy = MotoGPTPolicy.from_pretrained(checkpoint).eval()
    return policy, make_pre_post_processors(policy.config, pretrained_path=str(checkpoint))[0]


def joined(labels: Path, policy: MotoGPTPolicy) -> LabelJoin:
    """What adds the policy's codes to samples."""
    return LabelJoin(
        LatentLabels(labels), LabelRequest(code_steps=policy.config.latent_steps), training=False
    )


@torch.no_grad()
def code_losses(checkpoint: Path, labels: Path, root: Path, first_episode: int) -> dict[str, float]:
    """Cross-entropy of the codes given the image and the codes before, in nats per code.

    Returns:
        `loss_1` and `accuracy_1` of the first latent step, `loss` and `accuracy` of all steps.
    """
    policy, preprocessor = read(checkpoint)
    frames = HeldOutFrames(root, first_episode, policy.config.frame_gap)
    totals: dict[str, float] = {}
    for batch in frames.batches(joined(labels, policy)):
        batch = preprocessor(batch)
        first = batch[LATENT_CODES_IS_PAD].clone()
        first[:, 1:] = True
        for suffix, is_pad in (("_1", first), ("", batch[LATENT_CODES_IS_PAD])):
            _, log = policy.forward(batch | {LATENT_CODES_IS_PAD: is_pad})
            count = int((~is_pad).sum())
            for name in ("loss", "accuracy"):
                key = f"{name}{suffix}"
                totals[key] = totals.get(key, 0.0) + count * log[f"latent_{name}"]
            totals[f"count{suffix}"] = totals.get(f"count{suffix}", 0) + count
    return {
        f"{name}{suffix}": totals[f"{name}{suffix}"] / totals[f"count{suffix}"]
        for name in ("loss", "accuracy")
        for suffix in ("_1", "")
    }


@torch.no_grad()
def pictures(
    checkpoint: Path, labels: Path, lam_path: Path, root: Path, first_episode: int, path: Path
) -> dict[str, float]:
    """Decodes the first predicted latent action with its latent action model, and draws some.

    Returns:
        PSNR in dB over all frames: `predicted` codes, `true` codes, those of `other` pairs, and the `copy` of o_t.
    """
    policy, preprocessor = read(checkpoint)
    lam = find_lam(str(lam_path)).load().eval()
    join = joined(labels, policy)
    codebook = join.labels.codebook
    assert codebook is not None
    centers = torch.from_numpy(codebook)  # (L, V, C)
    tokens = torch.arange(len(centers))
    frames = HeldOutFrames(root, first_episode, policy.config.frame_gap)
    pairs = frames.pairs(next(iter(policy.config.image_features)))
    predicted, true = [], []
    for batch in frames.batches(join):
        predicted.append(policy.predict_latents(preprocessor(dict(batch)))[:, 0])
        true.append(batch[LATENT_CODES][:, 0])
    codes = {"predicted": torch.cat(predicted), "true": torch.cat(true)}  # each (N, L)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(frames)))
    codes["other"] = codes["true"][order]
    decoded = {
        name: torch.cat(
            [
                lam.decode(current, centers[tokens, part])
                for current, part in zip(
                    pairs[:, 0].split(BATCH_SIZE), indices.split(BATCH_SIZE), strict=True
                )
            ]
        ).clamp(0, 1)
        for name, indices in codes.items()
    }
    size = decoded["true"].shape[-1]
    decoded["copy"] = resize(pairs[:, 0], size)
    future = resize(pairs[:, 1], size)
    draw(decoded, future, path)
    return {name: psnr(images, future).item() for name, images in decoded.items()}


def draw(decoded: dict[str, Tensor], future: Tensor, path: Path) -> None:
    """Draws predictions beside the true future, from little to much motion, with the PSNR of each."""
    order = (decoded["copy"] - future).square().flatten(1).mean(1).argsort()
    chosen = order[torch.linspace(0.15 * (len(order) - 1), len(order) - 1, NUM_EXAMPLES).round().long()]
    columns = {
        "$o_t$ (copy)": decoded["copy"],
        "predicted codes": decoded["predicted"],
        "true codes": decoded["true"],
        "$o_{t+K}$": future,
    }
    figure, grid = plt.subplots(
        NUM_EXAMPLES,
        len(columns),
        figsize=(1.75 * len(columns), 1.95 * NUM_EXAMPLES + 0.3),
        layout="constrained",
    )
    for panels, sample in zip(grid, chosen, strict=True):
        for panel, (title, images) in zip(panels, columns.items(), strict=True):
            panel.imshow(images[sample].permute(1, 2, 0).numpy(), interpolation="nearest")
            if images is not future:
                panel.set_xlabel(f"{psnr(images[sample][None], future[sample][None]).item():.1f} dB")
            panel.set_xticks([])
            panel.set_yticks([])
            if panel in grid[0]:
                panel.set_title(title)
    save_figure(figure, path)


def main() -> None:
    """Writes `measured.json` and, with a latent action model, `predicted.png`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("policy", "labels", "placebo", "placebo_labels", "root", "output_dir"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--lam", type=Path)
    parser.add_argument("--first_episode", type=int, required=True, help="the first that is held out")
    arguments = parser.parse_args()
    data = (arguments.root, arguments.first_episode)
    result: dict[str, Any] = {
        "own": code_losses(arguments.policy, arguments.labels, *data),
        "placebo": code_losses(arguments.placebo, arguments.placebo_labels, *data),
    }
    if arguments.lam is not None:
        picture = arguments.output_dir / "predicted.png"
        result["psnr"] = pictures(arguments.policy, arguments.labels, arguments.lam, *data, picture)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    (arguments.output_dir / "measured.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
