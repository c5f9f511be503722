"""Collects the finished seeds of the refinement study, and makes its table; see README.md in this folder."""

import argparse
import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from arms import CONSUMERS, IDS, NONE, SEEDS, SHUFFLED, TOKENIZERS, VANILLA

from lerobot_lara.evaluation.intervals import student_interval
from lerobot_lara.evaluation.study.metaworld_jobs import read_outcomes
from lerobot_lara.evaluation.study.result_files import reading_result

DIFFERENCES = (
    ("joint", "control"),
    ("joint_relative", "control"),
    ("joint", "placebo"),
    (VANILLA, SHUFFLED),
    (VANILLA, NONE),
    ("control", VANILLA),
)
LAMS = (VANILLA, *TOKENIZERS)
Values = Mapping[int, float]  # seed -> value
Rows = list[dict[str, Any]]


def finished_seeds(study: Path) -> list[int]:
    """Seeds of which every cell was evaluated and every tokenizer measured."""
    seeds = sorted(int(folder.name) for folder in (study / "probe").iterdir() if folder.name.isdigit())
    return [
        seed
        for seed in seeds
        if all((study / "eval" / f"policy_{name}_{seed}" / "eval_info.json").exists() for name in CONSUMERS)
        and all((study / "measured" / f"{ids}_{seed}" / "measured.json").exists() for ids in IDS)
    ]


def collect(study: Path, seeds: list[int]) -> tuple[Rows, Rows]:
    """Reads the results of seeds.

    Returns:
        Outcomes, one row per evaluation and task; and measures, one row per seed, codes and name.
    """
    outcomes: Rows = []
    measures: Rows = []
    for seed in seeds:
        for name in CONSUMERS:
            for suffix, decoded in (("", 0), ("_with_latents", 1)):
                info = study / "eval" / f"policy_{name}_{seed}{suffix}" / "eval_info.json"
                if decoded and name in (NONE, SHUFFLED):
                    continue
                outcomes += [
                    {
                        "policy": name,
                        "decoded_codes": decoded,
                        "seed": seed,
                        "task": task,
                        "outcomes": "".join(str(int(success)) for success in successes),
                    }
                    for task, successes in read_outcomes(info).items()
                ]
        for ids in IDS:
            for name, value in _measured(study / "measured" / f"{ids}_{seed}" / "measured.json"):
                measures.append({"codes": ids, "seed": seed, "measure": name, "value": f"{value:.4f}"})
        for ids, name, value in _probed(study / "probe" / str(seed) / "metrics.json"):
            measures.append({"codes": ids, "seed": seed, "measure": name, "value": f"{value:.4f}"})
    return outcomes, measures


def _measured(path: Path) -> Iterator[tuple[str, float]]:
    with reading_result(path) as content:
        own, placebo = content["own"], content["placebo"]
        yield "nats", own["loss_1"]
        yield "accuracy", own["accuracy_1"]
        yield "gain", placebo["loss_1"] - own["loss_1"]
        yield "gain_all_steps", placebo["loss"] - own["loss"]
        if "psnr" in content:
            for name, value in content["psnr"].items():
                yield f"psnr_{name}", value


def _probed(path: Path) -> Iterator[tuple[str, str, float]]:
    with reading_result(path) as content:
        for ids, model in zip(LAMS, content["models"], strict=True):
            yield ids, "rank", model["latents"]["effective_rank"]
            yield (
                ids,
                "increment",
                model["action"]["together"]["value"] - model["action"]["baseline"]["value"],
            )
            yield (
                ids,
                "transfer",
                model["transfer"]["cosine"]["value"] - model["transfer"]["shuffled_cosine"]["value"],
            )


def by_seed(rows: Rows, value: Callable[[dict[str, Any]], float], **where: Any) -> dict[int, float]:
    """Mean value by seed of the rows that match."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if all(row[key] == wanted for key, wanted in where.items()):
            found.setdefault(row["seed"], []).append(value(row))
    return {seed: float(np.mean(values)) for seed, values in found.items()}


def difference(first: Values, second: Values) -> dict[int, float]:
    """Difference by seed, for the common seeds."""
    return {seed: first[seed] - second[seed] for seed in sorted(set(first) & set(second))}


def _share(row: dict[str, Any]) -> float:
    return float(np.mean([int(outcome) for outcome in row["outcomes"]]))


def _value(row: dict[str, Any]) -> float:
    return float(row["value"])


def _cell(values: Values, form: str, scale: float = 1) -> str:
    if not values:
        return ""
    mean, low, high = (scale * number for number in student_interval(values.values()))
    return f"{mean:{form}} [{low:{form}}, {high:{form}}]"


def _table(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join(["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *lines]]) + "\n"


def summarize(outcomes: Rows, measures: Rows) -> str:
    """Formats the tables of the study in Markdown: success, differences, measures of the codes, and values by seed."""
    tasks = sorted({row["task"] for row in outcomes})
    seeds = sorted({row["seed"] for row in outcomes})

    def success(name: str, decoded: int, **where: Any) -> dict[int, float]:
        return by_seed(outcomes, _share, policy=name, decoded_codes=decoded, **where)

    policies = []
    for name in CONSUMERS:
        rates = [f"{100 * np.mean(list(success(name, 0, task=task).values())):.0f} %" for task in tasks]
        decoded = _cell(success(name, 1), ".1f", 100)
        policies.append([f"`{name}`", *rates, _cell(success(name, 0), ".1f", 100), decoded])
    compared = [
        [
            f"`{first}` - `{second}`",
            *(
                _cell(difference(success(first, decoded), success(second, decoded)), "+.1f", 100)
                for decoded in (0, 1)
            ),
        ]
        for first, second in DIFFERENCES
    ]

    def measured(ids: str, name: str) -> dict[int, float]:
        return by_seed(measures, _value, codes=ids, measure=name)

    codes = []
    for ids in IDS:
        predicted, true = measured(ids, "psnr_predicted"), measured(ids, "psnr_true")
        copy, other = measured(ids, "psnr_copy"), measured(ids, "psnr_other")
        codes.append(
            [
                f"`{ids}`",
                _cell(measured(ids, "gain"), ".2f"),
                _cell(measured(ids, "nats"), ".2f"),
                _cell(measured(ids, "accuracy"), ".2f"),
                _cell(difference(predicted, copy), "+.2f"),
                _cell(difference(predicted, other), "+.2f"),
                _cell(difference(true, copy), "+.2f"),
                _cell(measured(ids, "rank"), ".1f"),
                _cell(measured(ids, "increment"), ".3f"),
                _cell(measured(ids, "transfer"), ".2f"),
            ]
        )
    each = [
        [f"`{name}`", *(f"{100 * rate:.0f} %" for _, rate in sorted(success(name, 0).items()))]
        for name in CONSUMERS
    ]
    return "\n".join(
        [
            _table(["policy", *tasks, "all", "all, with decoded codes"], policies),
            _table(["difference in points", "without decoded codes", "with"], compared),
            _table(
                [
                    "codes",
                    "gain, nats",
                    "nats",
                    "accuracy",
                    "PSNR predicted - copy",
                    "predicted - other",
                    "true - copy",
                    "effective rank",
                    "increment of R² over o_t",
                    "gain of the cycle cosine",
                ],
                codes,
            ),
            _table(["policy", *(f"seed {seed}" for seed in seeds)], each),
        ]
    )


def merge(path: Path, rows: Rows) -> Rows:
    """Adds the rows of seeds that another machine has collected into a file.

    Args:
        path: The file, which need not exist.
        rows: Those of the seeds at hand, which count where the file has other rows of the same seed.
    """
    if not path.is_file():
        return rows
    with path.open(newline="") as file:
        kept = [
            {name: int(value) if name in ("seed", "decoded_codes") else value for name, value in row.items()}
            for row in csv.DictReader(file)
        ]
    collected = {row["seed"] for row in rows}
    return sorted([row for row in kept if row["seed"] not in collected] + rows, key=lambda row: row["seed"])


def _write(path: Path, rows: Rows) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Adds to `success.csv` and `measures.csv`; writes `summary.md` when they hold all seeds, and not before."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path, help="output folder of study.py")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args()
    seeds = finished_seeds(arguments.study)
    if not seeds:
        parser.error(f"no seed in {arguments.study} is finished yet; run study.py again")
    outcomes, measures = collect(arguments.study, seeds)
    arguments.out.mkdir(parents=True, exist_ok=True)
    outcomes = merge(arguments.out / "success.csv", outcomes)
    measures = merge(arguments.out / "measures.csv", measures)
    _write(arguments.out / "success.csv", outcomes)
    _write(arguments.out / "measures.csv", measures)
    if {row["seed"] for row in outcomes} >= set(SEEDS):
        (arguments.out / "summary.md").write_text(summarize(outcomes, measures))


if __name__ == "__main__":
    main()
