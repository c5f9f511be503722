"""Frames per second of labeling against those of decoding, in one run.

    python benchmarks/labeling.py <video.mp4> [--scale=reference] [--device=cuda] [--frames=2048] [--size=224]

Latent actions of a video's frames are inferred as `lara label` does it, by a latent action model with random weights;
on a GPU also in lower precision, whose error it reports: the largest difference of a latent, in standard
deviations of the latents, and the share of changed codes. Decoding is that of one thread, with PyAV or else OpenCV.
"""

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from step import Scale
from torch import Tensor

from lerobot_lara.data.latent_labels.manifest import PRECISIONS
from lerobot_lara.labeling.engine import EpisodeLabels, computing_in, label_episode

WINDOW = 64
NO_SHIFT = np.zeros((1, 2), np.int64)


def decode(video: Path) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) uint8 of a video, decoded in one thread."""
    if importlib.util.find_spec("av") is not None:
        import av

        with av.open(str(video)) as container:
            container.streams.video[0].thread_type = "NONE"
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
        return
    import cv2

    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(str(video), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    while True:
        found, image = capture.read()
        if not found:
            return
        yield np.ascontiguousarray(image[..., ::-1])


def timed(function: Callable[[], Any], repeats: int, device: str) -> float:
    """Median seconds of a call, after one that does not count."""
    seconds = []
    for _ in range(1 + repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def measure(video: Path, scale: str, device: str, frames: int, size: int, repeats: int) -> dict[str, Any]:
    """Measures decoding and labeling.

    Args:
        video: File.
        scale: "demo" or "reference".
        device: Of the latent action model.
        frames: Frames to label; the video's are repeated.
        size: Side of the frames that the model is given, in pixels.
        repeats: Of each measurement.

    Returns:
        Results by name; rates in frames per second.
    """
    decoded = list(decode(video))
    images = torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2)  # (n, 3, H, W)
    images = torch.nn.functional.interpolate(images, (size, size))
    images = images.repeat(-(-frames // len(images)), 1, 1, 1)[:frames]
    times = -(-frames // len(decoded))
    seconds = timed(lambda: [len(list(decode(video))) for _ in range(times)], repeats, "cpu")
    result: dict[str, Any] = {
        "video": [*decoded[0].shape[:2], len(decoded)],
        "decoding": times * len(decoded) / seconds,
    }
    with tempfile.TemporaryDirectory() as folder:
        lam: Any = Scale(scale, Path(folder), device).build("lara_lam").model  # type: ignore[union-attr]
    lam = lam.eval()
    result["parameters"] = sum(parameter.numel() for parameter in lam.parameters())

    def label(windows: tuple[Tensor, ...]) -> EpisodeLabels:
        length = sum(len(window) for window in windows)
        return label_episode(lam, windows, length=length, shifts=NO_SHIFT, no_motion=False)

    windows = images.split(WINDOW)
    exact: EpisodeLabels | None = None
    for name in PRECISIONS if device == "cuda" else PRECISIONS[:1]:
        with computing_in(name, torch.device(device)):
            labels = label(windows)
            seconds = timed(lambda: label(windows), repeats, device)
        row = {"labeling": frames / seconds, "over_decoding": frames / seconds / result["decoding"]}
        exact = exact or labels
        values, reference = labels.latent_action[labels.valid], exact.latent_action[exact.valid]
        row["largest_error"] = float(np.abs(values - reference).max() / reference.std())
        if labels.code_indices is not None and exact.code_indices is not None:
            row["codes_changed"] = float((labels.code_indices != exact.code_indices).mean())
        result[name] = row
    if device == "cuda":
        result["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return result


def main() -> None:
    """Prints the results as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("video", type=Path)
    parser.add_argument("--scale", choices=("demo", "reference"), default="demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--frames", type=int, default=512)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    sys.stdout.write(json.dumps(measure(**vars(arguments)), indent=1) + "\n")


if __name__ == "__main__":
    main()
