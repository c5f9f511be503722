"""Writes the report of `lara probe`: a page, its figures as PNGs, and all numbers as JSON."""

import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lerobot_lara.evaluation.page import data_uri, render_template, video_source
from lerobot_lara.evaluation.probe import figures, pictures
from lerobot_lara.evaluation.probe.bootstrap import NUM_RESAMPLES, Estimate
from lerobot_lara.evaluation.probe.checkpoint import Checkpoint
from lerobot_lara.evaluation.probe.data import Pairs
from lerobot_lara.evaluation.probe.film import prediction_film
from lerobot_lara.evaluation.probe.gallery import choose_groups
from lerobot_lara.evaluation.probe.labeled import LabeledLatents
from lerobot_lara.evaluation.probe.measure import Measurement
from lerobot_lara.evaluation.probe.verdicts import Verdict, judge
from lerobot_lara.files.atomic import partial_path, write_json, write_text

logger = logging.getLogger(__name__)

# Marks a page as written by this command, so that it may be replaced.
GENERATOR = '<meta name="generator" content="lara probe">'
PAGE, RESULTS, FIGURES = "report.html", "metrics.json", "figures"

Probed = list[tuple[Checkpoint, Measurement]]


@dataclass(frozen=True)
class Headline:
    """A number by which models are compared.

    Attributes:
        title: Name of the number.
        better: "higher" or "lower".
        form: Format specification of the number.
        estimates: Estimate of each model; None where it was not measured.
        differences: For each model after the first, its estimate minus that of the first, in paired resamples.
    """

    title: str
    better: str
    form: str
    estimates: list[Estimate | None]
    differences: list[Estimate | None]


def write_report(folder: Path, probed: Probed, pairs: Pairs, *, dataset: str, seed: int) -> Path:
    """Writes the page, the figures and the numbers, and replaces those of an earlier report in the same folder.

    An earlier report stays until the new one is drawn, and its page, which embeds the figures, until the very end.

    Args:
        folder: Folder of the report; created if necessary.
        probed: Checkpoints and their measurements on `pairs`.
        pairs: The pairs.
        dataset: Dataset as passed by the user.
        seed: Seed of the measurements.

    Returns:
        Path of the page.
    """
    verdicts = [judge(measurement) for _, measurement in probed]
    folder.mkdir(parents=True, exist_ok=True)
    path, drawing = folder / PAGE, partial_path(folder / FIGURES)
    if not path.exists():  # marks the folder as ours, in case writing is interrupted
        write_text(path, f"<!doctype html>{GENERATOR}<p>This report is not complete.</p>")
    if drawing.exists():  # of a report that was interrupted
        shutil.rmtree(drawing)
    drawn = draw_figures(drawing, probed, pairs, seed=seed)
    headlines = compare([measurement for _, measurement in probed])
    results = results_json(probed, verdicts, headlines, pairs, dataset=dataset, seed=seed)
    page = render_template(
        "probe.html.j2",
        generator=GENERATOR,
        dataset=dataset,
        pairs=pairs,
        num_episodes=len(set(pairs.episodes.tolist())),
        seed=seed,
        probed=probed,
        verdicts=verdicts,
        headlines=headlines,
        images={name: _embedded(path) for name, path in drawn.items()},
        resamples=NUM_RESAMPLES,
        colors=figures.COLORS,
    )
    write_json(folder / RESULTS, results)
    (folder / FIGURES).mkdir(exist_ok=True)
    for old in (folder / FIGURES).iterdir():
        if old.suffix in (".png", ".mp4") and not (drawing / old.name).exists():
            old.unlink()
    for figure in sorted(drawing.iterdir()):
        figure.replace(folder / FIGURES / figure.name)
    drawing.rmdir()
    write_text(path, page)
    for (checkpoint, _), model_verdicts in zip(probed, verdicts, strict=True):
        for verdict in model_verdicts:
            logger.info("%s: %s, %s.", checkpoint.label, verdict.outcome.upper(), verdict.name)
    return path


def draw_figures(folder: Path, probed: Probed, pairs: Pairs, *, seed: int) -> dict[str, Path]:
    """Draws what was measured.

    Args:
        folder: Folder of the PNGs and MP4s.
        probed: Checkpoints and their measurements on `pairs`.
        pairs: The pairs.
        seed: Seed of the measurements.

    Returns:
        File of each figure, by name. Names of figures of a single model end with the model's number, counted from 1.
    """
    drawn = {}
    if any(each.robustness for _, each in probed):
        drawn["distractors"] = pictures.distractor_examples(pairs, folder / "distractors.png", seed=seed)
    actions = {checkpoint.label: each.action for checkpoint, each in probed if each.action is not None}
    if actions:
        drawn["action_probe"] = figures.action_probe_bars(actions, folder / "action_probe.png")
    predictions = {
        checkpoint.label: each.prediction for checkpoint, each in probed if each.prediction is not None
    }
    if predictions:
        drawn["prediction"] = figures.prediction_bars(predictions, folder / "prediction.png")
    for number, (checkpoint, each) in enumerate(probed, start=1):
        model = checkpoint.model
        paths = {
            name: folder / f"{name}_{number}.png"
            for name in ("predictions", "transfer", "gallery", "latents")
        }
        figures.latent_usage(each.latents, each.statistics, paths["latents"])
        if not isinstance(model, LabeledLatents) and each.prediction is not None:
            pictures.example_predictions(model, pairs, each, paths["predictions"])
            pictures.transfer_strip(model, pairs, each, paths["transfer"])
            drawn[f"film_{number}"] = prediction_film(model, pairs, each, folder / f"film_{number}.mp4")
        groups = choose_groups(each.latents, pairs.episodes, model.codebook_size)
        if groups:
            pictures.pair_gallery(pairs, groups, paths["gallery"])
        drawn |= {path.stem: path for path in paths.values() if path.is_file()}
    return drawn


def _embedded(path: Path) -> str:
    if path.suffix == ".mp4":
        return video_source(path, f"{FIGURES}/{path.name}")
    return data_uri(path.read_bytes())


def compare(measurements: list[Measurement]) -> list[Headline]:
    """Returns the main numbers of all models, and their differences from the first model."""
    rows: list[tuple[str, str, str, list[Estimate | None]]] = [
        ("PSNR gain over copying o_t (dB)", "higher", ".2f", [m.gain_over_copy for m in measurements]),
        (
            "PSNR gain over shuffled latents (dB)",
            "higher",
            ".2f",
            [m.gain_over_shuffled for m in measurements],
        ),
        ("R² of actions from the latent, linear", "higher", ".3f", [m.latent_r2 for m in measurements]),
        (
            "R² increment of the latent over o_t",
            "higher",
            ".3f",
            [m.increment for m in measurements],
        ),
        (
            "retrieval of the action chunk among 32",
            "higher",
            ".1%",
            [None if m.action is None else m.action.retrieval for m in measurements],
        ),
        (
            "gain of the cycle cosine over another latent",
            "higher",
            ".2f",
            [m.cycle_gain for m in measurements],
        ),
    ]
    for name in measurements[0].robustness:
        moved: list[Estimate | None] = [m.robustness[name].displacement for m in measurements]
        rows.append((f"displacement of the latent by a {name}", "lower", ".3f", moved))
    return [
        Headline(title, better, form, estimates, [_difference(each, estimates[0]) for each in estimates[1:]])
        for title, better, form, estimates in rows
        if any(estimate is not None for estimate in estimates)
    ]


def results_json(
    probed: Probed,
    verdicts: list[list[Verdict]],
    headlines: list[Headline],
    pairs: Pairs,
    *,
    dataset: str,
    seed: int,
) -> dict[str, Any]:
    """Returns everything that was measured, with 95 % intervals, as JSON-serializable values."""
    return {
        "dataset": dataset,
        "camera": pairs.camera,
        "fps": pairs.fps,
        "frame_gap": probed[0][0].model.frame_gap,
        "pairs": len(pairs),
        "episodes": len(set(pairs.episodes.tolist())),
        "action_dimensions": pairs.action_names,
        "constant_action_dimensions": pairs.constant_actions,
        "seed": seed,
        "models": [
            {
                "checkpoint": checkpoint.path,
                "label": checkpoint.label,
                "type": checkpoint.type,
                "verdicts": [asdict(verdict) for verdict in model_verdicts],
                "latents": asdict(measurement.statistics),
                "action": _plain(measurement.action),
                "prediction": _plain(measurement.prediction),
                "transfer": _plain(measurement.transfer),
                "robustness": _plain(measurement.robustness),
            }
            for (checkpoint, measurement), model_verdicts in zip(probed, verdicts, strict=True)
        ],
        "differences_to_the_first": [
            {"name": headline.title, "better": headline.better, "models": _plain(headline.differences)}
            for headline in headlines
            if headline.differences
        ],
    }


def _difference(estimate: Estimate | None, first: Estimate | None) -> Estimate | None:
    return None if estimate is None or first is None else estimate - first


def _plain(value: Any) -> Any:
    """Converts estimates, and dataclasses that contain them, to JSON-serializable values; arrays are left out."""
    if isinstance(value, Estimate):
        return value.json()
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    fields = {name: each for name, each in vars(value).items() if not hasattr(each, "shape")}
    return {name: _plain(each) for name, each in fields.items()}
