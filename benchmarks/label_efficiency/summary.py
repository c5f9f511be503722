"""Makes a table and a figure of the label-efficiency study from its results."""

import argparse
import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from lerobot_lara.evaluation.intervals import student_interval, wilson_interval

DRAWS = 10_000
AGAINST = ("dit", "lara")
Outcomes = dict[int, dict[str, np.ndarray]]  # seed -> task -> (scenes,) of 0 and 1
Results = dict[tuple[str, int], Outcomes]  # (arm, labels) -> outcomes


def read_results(path: Path) -> Results:
    """Reads the outcomes by (arm, labels) from a CSV; the expert and the zero policy have labels 0 and seed 0."""
    results: Results = defaultdict(lambda: defaultdict(dict))
    with path.open() as file:
        for row in csv.DictReader(file):
            outcomes = np.array([int(outcome) for outcome in row["outcomes"]])
            results[row["arm"], int(row["labels"] or 0)][int(row["seed"] or 0)][row["task"]] = outcomes
    return results


def paired_difference(first: Outcomes, second: Outcomes, *, draws: int = DRAWS) -> tuple[float, float, float]:
    """Difference of the success rates over the common seeds, with its 95 % bootstrap interval.

    Seeds are resampled, and scenes within each task; the resamples are the same for both arms.

    Args:
        first: Outcomes of one arm.
        second: Outcomes of the other arm.
        draws: Number of resamples.

    Returns:
        Difference first - second in [-1, 1], and the lower and upper end of its interval.
    """
    return _bootstrap(_differences(first, second), draws)


def success_rate(cells: Outcomes, *, draws: int = DRAWS) -> tuple[float, float, float]:
    """Mean over seeds, tasks and scenes with its 95 % bootstrap interval, or Wilson interval for a single seed."""
    tasks = sorted(next(iter(cells.values())))
    if len(cells) == 1:
        outcomes = np.concatenate([cells[seed][task] for seed in cells for task in tasks])
        return float(outcomes.mean()), *wilson_interval(int(outcomes.sum()), len(outcomes))
    return _bootstrap(np.stack([[cells[seed][task] for task in tasks] for seed in sorted(cells)]), draws)


def interval_by_seed(first: Outcomes, second: Outcomes) -> tuple[float, float]:
    """95 % t-interval of the difference from one value per seed; NaN with fewer than two common seeds."""
    _, low, high = student_interval(_differences(first, second).mean((1, 2)))
    return low, high


def _differences(first: Outcomes, second: Outcomes) -> np.ndarray:
    """Differences (seeds, tasks, scenes) of -1, 0 and 1, for the common seeds."""
    seeds = sorted(set(first) & set(second))
    tasks = sorted(first[seeds[0]])
    return np.stack([[first[seed][task] - second[seed][task] for task in tasks] for seed in seeds])


def _bootstrap(values: np.ndarray, draws: int) -> tuple[float, float, float]:
    num_seeds, num_tasks, num_scenes = values.shape
    generator = np.random.default_rng(0)
    means = np.empty(draws)
    for draw in range(draws):
        chosen = values[generator.integers(0, num_seeds, num_seeds)]  # (seeds, tasks, scenes)
        scenes = generator.integers(0, num_scenes, (num_tasks, num_scenes))
        means[draw] = np.take_along_axis(chosen, scenes[None], axis=2).mean()
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def summarize(results: Results, against: Sequence[str] = AGAINST) -> str:
    """Formats a Markdown table with a row per arm and number of labels, and the differences from other arms.

    Args:
        results: Outcomes from `read_results`.
        against: Arms with which the others are compared. An arm in this list is compared only with those before it.

    Returns:
        The table.
    """
    tasks = sorted({task for cells in results.values() for seed in cells.values() for task in seed})
    compared = [head for other in against for head in (f"minus `{other}`", "by seed")]
    head = ["labels", "arm", "seeds", *tasks, "all", *compared]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for (arm, labels), cells in sorted(results.items(), key=lambda item: (item[0][1], item[0][0])):
        rates = [np.mean([seed[task].mean() for seed in cells.values()]) for task in tasks]
        rate, low, high = success_rate(cells)
        row = [str(labels or "-"), f"`{arm}`", str(len(cells)), *(f"{rate:.0%}" for rate in rates)]
        row.append(f"{rate:.1%} [{low:.0%}, {high:.0%}]")
        for other in against:
            baseline = _baseline(results, arm, labels, against, other)
            if baseline is None:
                row += ["", ""]
            else:
                by_seed = "[{:+.1f}, {:+.1f}]".format(*_percent(*interval_by_seed(cells, baseline)))
                row += [_points(*paired_difference(cells, baseline)), by_seed]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def rates_by_seed(results: Results) -> str:
    """Formats a Markdown table with the success rate of every cell, in percent."""
    seeds = sorted({seed for cells in results.values() for seed in cells})
    head = ["labels", "arm", *(f"seed {seed}" for seed in seeds)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for (arm, labels), cells in sorted(results.items(), key=lambda item: (item[0][1], item[0][0])):
        rates = [
            f"{100 * np.mean(list(cells[seed].values())):.1f}" if seed in cells else "" for seed in seeds
        ]
        lines.append("| " + " | ".join([str(labels or "-"), f"`{arm}`", *rates]) + " |")
    return "\n".join(lines) + "\n"


def _baseline(results: Results, arm: str, labels: int, against: Sequence[str], other: str) -> Outcomes | None:
    """Outcomes that `arm` is compared with; None without common seeds, for `arm` itself and for repeated pairs."""
    if arm in against and against.index(arm) <= against.index(other):
        return None
    baseline = results.get((other, labels), {})
    return baseline if baseline.keys() & results[arm, labels].keys() else None


def _percent(*shares: float) -> list[float]:
    return [100 * share for share in shares]


def _points(*difference: float) -> str:
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*_percent(*difference))


def draw(results: Results, path: Path, against: Sequence[str] = AGAINST) -> None:
    """Draws success rates with a dot per seed, and differences with intervals, in a row per number of labels."""
    numbers = sorted({labels for _, labels in results if labels})
    rows = {labels: sorted(arm for arm, number in results if number == labels) for labels in numbers}
    heights = [0.6 + 0.32 * len(arms) for arms in rows.values()]
    figure, panels = plt.subplots(
        len(numbers),
        1 + len(against),
        figsize=(5 + 3.5 * len(against), 0.9 + sum(heights)),
        sharey="row",
        squeeze=False,
        layout="constrained",
        height_ratios=heights,
    )
    for (labels, arms), (rates, *differences) in zip(rows.items(), panels, strict=True):
        for position, arm in enumerate(reversed(arms)):
            cells = results[arm, labels]
            color = "#3f7cac" if arm.startswith("dit") else "#d9622b"
            by_seed = [np.mean([outcomes.mean() for outcomes in seed.values()]) for seed in cells.values()]
            rates.barh(position, np.mean(by_seed), color=color, alpha=0.35)
            rates.plot(by_seed, [position] * len(by_seed), "o", color=color, markersize=4)
            for panel, other in zip(differences, against, strict=True):
                if (baseline := _baseline(results, arm, labels, against, other)) is not None:
                    mean, low, high = _percent(*paired_difference(cells, baseline))
                    panel.plot([low, high], [position, position], color=color, linewidth=2)
                    panel.plot(mean, position, "o", color=color, markersize=6)
        rates.set_yticks(range(len(arms)), list(reversed(arms)))
        rates.set_xlim(0, 1)
        rates.set_xlabel("share of scenes solved; a dot per seed")
        rates.set_title(f"{labels} demonstrations per task")
        for panel, other in zip(differences, against, strict=True):
            panel.axvline(0, color="black", linewidth=0.8)
            panel.locator_params(axis="x", nbins=6)
            panel.set_xlabel(f"points more than {other}; paired, 95 %")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Writes the table and the figure beside the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="CSV file; a table (.md) and a figure (.png) go beside it")
    parser.add_argument(
        "--against", default=",".join(AGAINST), help="arms to compare the others with (default: %(default)s)"
    )
    arguments = parser.parse_args()
    against = arguments.against.split(",")
    results = read_results(arguments.results)
    if missing := set(against) - {arm for arm, _ in results}:
        parser.error(
            f"`--against` has {sorted(missing)}, which are not in {arguments.results}; choose arms from it"
        )
    if not any(labels for _, labels in results):
        parser.error(f"{arguments.results} has no policy but the anchors yet; run more cells")
    arguments.results.with_suffix(".md").write_text(
        summarize(results, against) + "\n" + rates_by_seed(results)
    )
    draw(results, arguments.results.with_suffix(".png"), against)


if __name__ == "__main__":
    main()
