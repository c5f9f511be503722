"""Samples per second of a mixture, compared with a LeRobotDataset that yields the same pairs and action chunks.

    python benchmarks/data_loading.py [--size=128] [--seconds=8] [--workers=0,1,2]

Both read the same frames of the same dataset in the same shuffled order, taking turns within one run; the result is
their ratio. `lara` on latent labels, which reads one frame in place of two, is compared with `lara_dit`. The dataset is
synthetic: 20 episodes of 60 noisy frames, stored as images and as video.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml
from lerobot.datasets.factory import resolve_delta_timestamps
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.sampler import EpisodeAwareSampler
from lerobot.utils.import_utils import get_safe_default_video_backend
from torch.utils.data import DataLoader, Dataset

from lerobot_lara import LaraConfig, LaraDiTConfig
from lerobot_lara.data.mixture.build import build_mixture
from lerobot_lara.data.mixture.config import load_mixture
from lerobot_lara.labeling.run import label
from lerobot_lara.lam.latent_action_model import LatentActionModel

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.tiny_datasets import make_tiny_dataset

FPS, GAP, CHUNK, BATCH = 10, 8, 16, 16
logger = logging.getLogger("data_loading")


def pair_of_datasets(folder: Path, storage: str, size: int) -> tuple[Dataset, Dataset]:
    """Returns a mixture of one synthetic dataset, and the same dataset as LeRobot reads it."""
    root = make_tiny_dataset(
        folder / storage, num_episodes=20, num_frames=60, size=size, storage=storage, fps=FPS
    )
    config = LaraConfig(device="cpu", push_to_hub=False, frame_gap=GAP, chunk_size=CHUNK)
    path = folder / f"{storage}.yaml"
    path.write_text(yaml.safe_dump({"entries": [{"name": "own", "repo_id": "local/own", "root": str(root)}]}))
    backend = get_safe_default_video_backend()
    mixture, _ = build_mixture(load_mixture(path), config, path=path, video_backend=backend)
    meta = LeRobotDataset("local/own", root=root).meta
    stock = LeRobotDataset(
        "local/own",
        root=root,
        delta_timestamps=resolve_delta_timestamps(config, meta),
        video_backend=backend,
        return_uint8=True,
    )
    return mixture, stock


def labeled_and_plain(folder: Path, storage: str) -> tuple[Dataset, Dataset]:
    """Returns the synthetic dataset for a `lara` on latent labels, and for a `lara_dit`."""
    root, lam, path = folder / storage, folder / "lam", folder / f"{storage}_labels.yaml"
    if not lam.exists():
        LatentActionModel.from_config(frame_gap=GAP, image_size=32).save_pretrained(lam)
    labels = label(str(lam), str(root), folder / f"{storage}_labels")[0].folder
    entry = {"name": "own", "repo_id": "local/own", "root": str(root), "labels": str(labels)}
    path.write_text(yaml.safe_dump({"entries": [entry]}))
    common = {"device": "cpu", "push_to_hub": False, "chunk_size": CHUNK}
    aligned = LaraConfig(**common, frame_gap=GAP, alignment_source="labels")
    made = [
        build_mixture(load_mixture(path), config, path=path, video_backend=get_safe_default_video_backend())
        for config in (aligned, LaraDiTConfig(**common))
    ]
    return made[0][0], made[1][0]


class Stream:
    """Batches of a dataset, read with LeRobot's sampler and loader settings and timed."""

    def __init__(self, dataset: Dataset, workers: int) -> None:
        length = len(dataset)  # type: ignore[arg-type]
        sampler = EpisodeAwareSampler([0], [length], shuffle=True, seed=1000)
        extra = {"persistent_workers": True, "multiprocessing_context": "spawn"} if workers else {}
        self._loader = DataLoader(dataset, batch_size=BATCH, sampler=sampler, num_workers=workers, **extra)
        self._iterator = iter(self._loader)
        self.samples, self.seconds = 0, 0.0
        self.read(0.5)
        self.samples, self.seconds = 0, 0.0

    def read(self, seconds: float) -> None:
        """Reads batches for about the given number of seconds."""
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            batch = next(self._iterator, None)
            if batch is None:
                self._iterator = iter(self._loader)
                continue
            self.samples += len(batch["action"])
        self.seconds += time.perf_counter() - start

    @property
    def rate(self) -> float:
        """Samples per second."""
        return self.samples / self.seconds


def measure(
    datasets: tuple[Dataset, Dataset], workers: int, seconds: float, names: tuple[str, str]
) -> dict[str, float]:
    """Measures both datasets in alternating turns, because the background load changes within a run."""
    streams = [Stream(dataset, workers) for dataset in datasets]
    turns = 8
    for _ in range(turns):
        for stream in streams:
            stream.read(seconds / turns)
    ours, theirs = (stream.rate for stream in streams)
    return {f"{names[0]}_samples_per_s": ours, f"{names[1]}_samples_per_s": theirs, "ratio": ours / theirs}


def main() -> None:
    """Logs one line per kind of storage and number of workers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=128, help="side of the frames in pixels")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each dataset and line")
    parser.add_argument("--workers", default="0,1,2", help="numbers of workers, separated by commas")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logger.setLevel(logging.INFO)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for storage in ("image", "video"):
            compared = {
                ("mixture", "stock"): pair_of_datasets(Path(folder), storage, arguments.size),
                ("lara_on_labels", "lara_dit"): labeled_and_plain(Path(folder), storage),
            }
            for workers in map(int, arguments.workers.split(",")):
                for names, datasets in compared.items():
                    row = {"storage": storage, "size": arguments.size, "workers": workers}
                    rates = measure(datasets, workers, arguments.seconds, names)
                    logger.info(json.dumps(row | {name: round(rate, 2) for name, rate in rates.items()}))


if __name__ == "__main__":
    main()
