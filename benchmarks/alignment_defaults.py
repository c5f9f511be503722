"""Screens what a policy is aligned to, how strongly and where, by its error on held-out demonstrations.

    lara label <lam> <demos> --out=<labels> --augmentations=4 --random-shift=3
    python benchmarks/alignment_defaults.py <demos> --labels=<labels> --lam=<lam> --output_dir=outputs/defaults \
        [--seeds=0,1,2] [--steps=700] [--episodes=6] [--first_held_out=30] [--workers=1] [--cells=weight]

Data and networks are those of `make demo`, whose tasks are the validation tasks: anything may be tried on them. Every
cell trains `configs/demo/lara.yaml` on the first few demonstrations with `lerobot-train`. Finished cells are kept.
"""

import argparse
import csv
import json
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "label_efficiency"))
from held_out_error import errors_by_episode

CONFIGS = Path(__file__).parents[1] / "configs" / "demo"
WEIGHT, SOURCE = "--policy.alignment_loss_weight", "--policy.alignment_source"
logger = logging.getLogger("alignment_defaults")


def cells(labels: str, lam: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Name of each cell -> its configuration and flags."""
    labeled = (f"--policy.lam_labels={labels}",)
    table: dict[str, tuple[str, tuple[str, ...]]] = {"dit": ("dit", ())}
    for weight in (0.1, 0.25, 0.5, 1, 2):
        table[f"weight_{weight}"] = ("lara", (*labeled, f"{WEIGHT}={weight}"))
    for layer in (1, 3, 4):
        table[f"layer_{layer}"] = ("lara", (*labeled, f"{WEIGHT}=0.5", f"--policy.alignment_layer={layer}"))
    table["actions"] = ("lara", (f"{SOURCE}=actions", f"{WEIGHT}=0.5"))
    table["features"] = ("lara", (f"{SOURCE}=features", f"--policy.lam_path={lam}", f"{WEIGHT}=0.5"))
    return table


def run_cell(
    name: str, config: str, flags: tuple[str, ...], seed: int, arguments: argparse.Namespace
) -> Path:
    """Trains and measures one cell; returns the file of its errors by episode."""
    folder = arguments.output_dir / f"{name}_{seed}"
    result = folder / "held_out.json"
    if result.exists():
        return result
    command = [
        str(Path(sys.executable).with_name("lerobot-train")),
        f"--config_path={CONFIGS / f'{config}.yaml'}",
        f"--dataset.root={arguments.demos}",
        f"--dataset.episodes={list(range(arguments.episodes))}",
        f"--output_dir={folder / 'train'}",
        f"--steps={arguments.steps}",
        f"--save_freq={arguments.steps}",
        f"--seed={1000 + seed}",
        *flags,
    ]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("w") as log:
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, stdout=log, stderr=log, env=environment)
    checkpoint = folder / "train" / "checkpoints" / "last" / "pretrained_model"
    errors = errors_by_episode(checkpoint, arguments.demos, arguments.first_held_out)
    result.write_text(json.dumps(errors))
    logger.info("%s, seed %d: %.4f", name, seed, sum(errors.values()) / len(errors))
    return result


def main() -> None:
    """Runs the cells, and writes `errors.csv` with one row per cell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("demos", type=Path, help="folder of the demonstrations")
    parser.add_argument("--labels", required=True, help="folder of their labels")
    parser.add_argument("--lam", required=True, help="the latent action model of the labels")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--episodes", type=int, default=6, help="the first so many are trained on")
    parser.add_argument("--first_held_out", type=int, default=30)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cells", default="", help="only those whose names contain this")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logger.setLevel(logging.INFO)
    table = {
        name: cell for name, cell in cells(arguments.labels, arguments.lam).items() if arguments.cells in name
    }
    jobs = [(name, *cell, int(seed)) for seed in arguments.seeds.split(",") for name, cell in table.items()]
    with ThreadPoolExecutor(arguments.workers) as pool:
        results = list(pool.map(lambda job: run_cell(*job, arguments), jobs))
    with (arguments.output_dir / "errors.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["cell", "seed", "error"])
        for (name, _, _, seed), result in zip(jobs, results, strict=True):
            errors = json.loads(result.read_text())
            writer.writerow([name, seed, f"{sum(errors.values()) / len(errors):.4f}"])


if __name__ == "__main__":
    main()
