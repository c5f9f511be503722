"""The cost of acting: a `lara` checkpoint compared with a `lara_dit` checkpoint of the same architecture, in one run.

    python benchmarks/inference.py --lara=outputs/demo/train/lara/checkpoints/last/pretrained_model \
        --lara_dit=outputs/demo/train/lara_dit/checkpoints/last/pretrained_model

Prints the loading time, the parameters in memory and the latency of an action chunk (batch 1), with the ratios lara /
lara_dit. The measurements of the two alternate, so that other load on the machine slows both alike.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

from lerobot_lara.dit.modeling_lara_dit import LaraDiTPolicy
from lerobot_lara.modeling_lara import LaraPolicy

CLASSES = {"lara_dit": LaraDiTPolicy, "lara": LaraPolicy}


def main() -> None:
    """Prints a table with one row per measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in CLASSES:
        parser.add_argument(f"--{name}", type=Path, required=True, help=f"folder of a {name} checkpoint")
    parser.add_argument("--repeats", type=int, default=50)
    args = parser.parse_args()
    torch.set_num_threads(1)

    loading: dict[str, list[float]] = {name: [] for name in CLASSES}
    latency: dict[str, list[float]] = {name: [] for name in CLASSES}
    policies = {}
    for _ in range(6):
        for name, policy_class in CLASSES.items():
            start = time.perf_counter()
            policies[name] = policy_class.from_pretrained(getattr(args, name))
            loading[name].append(time.perf_counter() - start)
    batches = {name: _observation(policy.config) for name, policy in policies.items()}
    for _ in range(args.repeats + 5):
        for name, policy in policies.items():
            start = time.perf_counter()
            policy.predict_action_chunk(batches[name])
            latency[name].append(time.perf_counter() - start)
    rows = {
        "loading, s (median of 5)": {n: statistics.median(v[1:]) for n, v in loading.items()},
        "parameters loaded": {n: float(sum(p.numel() for p in policies[n].parameters())) for n in CLASSES},
        f"chunk latency, ms (median of {args.repeats})": {
            n: 1000 * statistics.median(v[5:]) for n, v in latency.items()
        },
    }
    sys.stdout.write(f"{'':38}{'lara_dit':>14}{'lara':>14}{'ratio':>8}\n")
    for title, row in rows.items():
        ratio = row["lara"] / row["lara_dit"]
        sys.stdout.write(f"{title:38}{row['lara_dit']:>14,.2f}{row['lara']:>14,.2f}{ratio:>8.2f}\n")


def _observation(config: object) -> dict[str, torch.Tensor]:
    """A random observation with an instruction of eight tokens."""
    batch = {key: torch.rand(1, *feature.shape) for key, feature in config.input_features.items()}
    batch["observation.language.tokens"] = torch.arange(1000, 1008)[None]
    batch["observation.language.attention_mask"] = torch.ones(1, 8, dtype=torch.bool)
    return batch


if __name__ == "__main__":
    main()
