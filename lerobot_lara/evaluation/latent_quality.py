"""Does a latent action model's latent carry the motion? Measured on episodes it was not trained on.

A forward dynamics model that ignores its latent action still predicts plausible frames. Here the prediction must
beat two baselines on the same pairs: the frame o_t itself, and the prediction from another pair's latent action.

    python -m lerobot_lara.evaluation.latent_quality --lam_path=<lara_lam directory> --root=<dataset> --output=<dir>
"""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lerobot_lara.backbones.images import resize
from lerobot_lara.evaluation.figures import code_perplexity
from lerobot_lara.lam.metrics import effective_rank, psnr

BATCH_SIZE = 64
NUM_EXAMPLES = 6


@torch.no_grad()
def measure_latent_quality(model: Any, frames: Tensor, *, seed: int = 0) -> tuple[dict[str, float], dict]:
    """Compares a latent action model's predictions with those of two baselines.

    Args:
        model: `LatentActionModel` in eval mode, or anything with its `encode` and `decode`.
        frames: Held-out pairs (o_t, o_{t+K}), (N, 2, 3, H, W), RGB in [0, 1], N at least 2.
        seed: Decides which pair lends its latent action to which.

    Returns:
        Metrics: PSNR (dB, over all pairs) of the prediction (`psnr`), of the prediction from shuffled latent
        actions (`shuffled_psnr`) and of o_t (`copy_psnr`); `effective_rank` and `latent_dims`; for a quantized
        model `codebook_perplexity` and `live_codes`.
        Arrays: `current`, `future`, `prediction` (examples across the range of motion, at the prediction's size),
        `latents` (N, L·C), and `code_counts` (codebook_size,) for a quantized model.

    Raises:
        ValueError: If there are fewer than two pairs, or the model predicts features but no frames.
    """
    if len(frames) < 2:
        raise ValueError(f"{len(frames)} frame pairs: shuffling latent actions needs at least two.")
    encoded = [model.encode(batch) for batch in frames.split(BATCH_SIZE)]
    latents = torch.cat([output.latent_action for output in encoded])  # (N, L, C)
    quantized = torch.cat([output.quantized_latent_action for output in encoded])
    # Rolling along a random order leaves no pair with its own latent action.
    order = torch.randperm(len(frames), generator=torch.Generator().manual_seed(seed))
    shuffled = torch.empty_like(quantized)
    shuffled[order] = quantized[order.roll(1)]

    prediction = _decode(model, frames[:, 0], quantized)
    current, future = (resize(frames[:, time], prediction.shape[-1]) for time in (0, 1))
    metrics = {
        "pairs": len(frames),
        "psnr": psnr(prediction, future).item(),
        "shuffled_psnr": psnr(_decode(model, frames[:, 0], shuffled), future).item(),
        "copy_psnr": psnr(current, future).item(),
        "effective_rank": effective_rank(latents).item(),
        "latent_dims": latents[0].numel(),
    }
    examples = _spread_over_motion(current, future)
    arrays = {
        "current": current[examples].numpy(),
        "future": future[examples].numpy(),
        "prediction": prediction[examples].numpy(),
        "latents": latents.flatten(1).numpy(),  # (N, L * C)
    }
    if encoded[0].code_indices is not None:
        codes = torch.cat([output.code_indices for output in encoded])
        counts = torch.bincount(codes.flatten(), minlength=model.quantizer.codebook_size).numpy()
        metrics["codebook_perplexity"] = code_perplexity(counts)
        metrics["live_codes"] = int(np.count_nonzero(counts))
        arrays["code_counts"] = counts
    return metrics, arrays


def load_frame_pairs(
    root: Path, *, frame_gap: int, max_pairs: int, camera: str | None = None
) -> tuple[Tensor, float]:
    """Reads evenly spaced frame pairs from a dataset.

    Args:
        root: Directory of a LeRobotDataset.
        frame_gap: Distance within a pair, in frames.
        max_pairs: Upper limit on the number of pairs.
        camera: Image key, by default the dataset's first.

    Returns:
        Frames (N, 2, 3, H, W), RGB in [0, 1], and the time within a pair in seconds. Pairs that cross the end of
        an episode are left out.

    Raises:
        ValueError: If the dataset has no such camera, or no episode is longer than the frame gap.
    """
    from lerobot.datasets import LeRobotDataset, LeRobotDatasetMetadata

    meta = LeRobotDatasetMetadata(root.name, root=root)
    camera = camera or next(iter(meta.camera_keys), None)
    if camera not in meta.camera_keys:
        raise ValueError(f"camera is {camera!r}, but {root} has the cameras {meta.camera_keys}.")
    dataset = LeRobotDataset(root.name, root=root, delta_timestamps={camera: [0.0, frame_gap / meta.fps]})
    spans = zip(meta.episodes["dataset_from_index"], meta.episodes["dataset_to_index"], strict=True)
    starts = [index for first, end in spans for index in range(first, end - frame_gap)]
    if not starts:
        raise ValueError(f"frame_gap is {frame_gap}, but no episode of {root} is longer than that.")
    chosen = np.linspace(0, len(starts) - 1, min(max_pairs, len(starts))).round().astype(int)
    frames = torch.stack([dataset[starts[position]][camera] for position in chosen])
    return frames, frame_gap / meta.fps


def _decode(model: Any, current: Tensor, latents: Tensor) -> Tensor:
    batches = zip(current.split(BATCH_SIZE), latents.split(BATCH_SIZE), strict=True)
    return torch.cat([model.decode(frame, latent) for frame, latent in batches])


def _spread_over_motion(current: Tensor, future: Tensor) -> Tensor:
    """Picks pairs from the stillest tenth to the liveliest, so that the examples are neither flattered nor dull."""
    motion = (future - current).square().flatten(1).mean(1)
    quantiles = torch.linspace(0.1, 0.95, min(NUM_EXAMPLES, len(motion)))
    return motion.argsort()[(quantiles * (len(motion) - 1)).round().long()]


def main(argv: list[str] | None = None) -> None:
    """Writes `metrics.json` and `arrays.npz` into the output directory."""
    from lerobot_lara.lam.latent_action_model import LatentActionModel

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lam_path", required=True, help="directory or Hub id of a lara_lam")
    parser.add_argument("--root", type=Path, required=True, help="dataset the model was not trained on")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--max_pairs", type=int, default=512)
    parser.add_argument("--camera", help="image key, by default the dataset's first")
    parser.add_argument("--frame_gap", type=int, help="in frames, by default the model's own")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    model = LatentActionModel.from_pretrained(args.lam_path).eval()
    frame_gap = args.frame_gap or model.frame_gap
    if frame_gap is None:
        parser.error(f"{args.lam_path} does not say its frame gap: give --frame_gap")
    frames, seconds = load_frame_pairs(
        args.root, frame_gap=frame_gap, max_pairs=args.max_pairs, camera=args.camera
    )
    metrics, arrays = measure_latent_quality(model, frames)
    args.output.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(args.output / "arrays.npz", **arrays)
    report = {"frame_gap": frame_gap, "gap_seconds": seconds, **metrics}
    # Last, because its presence says that the measurement is complete.
    (args.output / "metrics.json").write_text(json.dumps(report, indent=2))
    logging.info("%s", metrics)


if __name__ == "__main__":
    main()
