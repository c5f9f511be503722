"""The demo study: does aligning a policy with a latent action model help when labeled demonstrations are few?

Scripted Meta-World demonstrations and action-free videos are recorded. A latent action model is trained on the videos
and measured by `lara probe`. `lara_dit` and `lara` are trained on the same demonstrations for the same number of steps,
`lara` once more on latent actions that were computed before, and once on a mixture of demonstrations and videos. All
policies, and one that does nothing, are evaluated on the same episodes. Every step is one command line; policies are
trained and evaluated by LeRobot's own `lerobot-train` and `lerobot-eval`.
"""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lerobot_lara.data.latent_labels.manifest import MANIFEST
from lerobot_lara.data.mixture.config import load_mixture
from lerobot_lara.evaluation.demo_results import collect_results
from lerobot_lara.evaluation.report import PROBE, write_report
from lerobot_lara.evaluation.study.jobs import Job, run_jobs
from lerobot_lara.evaluation.study.metaworld_jobs import MetaworldJobs, write_mixture_file
from lerobot_lara.files.atomic import write_json, write_text
from lerobot_lara.files.lock import only_run
from lerobot_lara.files.yaml_file import read_yaml

CONFIG_DIR = Path(__file__).parents[2] / "configs" / "demo"
MARKER = ".lara-demo"  # marks a directory as a demo run, which may be deleted with --overwrite
MIXTURE = "mixture.yaml"
LABELS = Path("labels/demos")
LABEL_VERSIONS = 4
RANDOM_SHIFT = 3  # that of configs/demo/lara.yaml
_DELETING = "being deleted"  # what the marker says until that is done
CONFIGS = ("lam", "dit", "lara", "lara_mixture", "mixture")


@dataclass(frozen=True)
class DemoSettings:
    """Size of the study. Everything about training (steps, batch, architecture) is in `configs/demo/*.yaml`.

    Args:
        tasks: Meta-World tasks; one policy per arm learns all of them.
        num_demos: Labeled demonstrations per task.
        num_videos: Action-free videos per task.
        num_episodes: Evaluation episodes per task and arm.
        episode_length: Steps after which an evaluation episode counts as failed.
        image_size: Side of the images, in pixels.
        demo_seed: Seed of the demonstrations.
        video_seed: Seed of the videos; a different one, so that no episode is in both sets.
        eval_seed: Seed of the first evaluation episode; the others follow.
        max_pairs: Held-out frame pairs on which the latent action model is measured.
        training_flags: Flags added to each `lerobot-train` command.
    """

    tasks: tuple[str, ...] = ("drawer-close-v3", "window-open-v3", "handle-press-v3")
    num_demos: int = 20
    num_videos: int = 25
    num_episodes: int = 20
    episode_length: int = 200
    image_size: int = 64
    demo_seed: int = 0
    video_seed: int = 1
    eval_seed: int = 1000
    max_pairs: int = 512
    training_flags: tuple[str, ...] = ()


# The same commands in under four minutes: shows that everything runs, and learns nothing. Probing needs four episodes.
QUICK_SETTINGS = replace(
    DemoSettings(),
    tasks=("door-close-v3",),
    num_demos=4,
    num_videos=3,
    num_episodes=2,
    episode_length=40,
    max_pairs=64,
    training_flags=("--steps=10", "--batch_size=8", "--log_freq=5"),
)


def run_demo(
    output_dir: Path,
    *,
    settings: DemoSettings | None = None,
    resume: bool = False,
    overwrite: bool = False,
    config_dir: Path = CONFIG_DIR,
) -> Path:
    """Runs the study and writes its report.

    Args:
        output_dir: Directory for data, checkpoints, evaluations, `results.json` and `report.html`. An interrupted run
            resumes where it stopped: what is finished is kept, and trainings go on from their newest checkpoint.
        settings: Size of the study; None selects the full one.
        resume: Accept a finished run: missing parts are run again, and the report is rewritten.
        overwrite: Delete an earlier run first.
        config_dir: Directory with the configurations `CONFIGS`.

    Returns:
        Path of the report.

    Raises:
        ValueError: If `output_dir` holds a finished run and neither `resume` nor `overwrite` is given, if it holds
            something else or a run with other settings, if another run is writing it, or if a configuration is missing.
        JobError: If a command fails.
    """
    settings = settings or DemoSettings()
    output_dir = output_dir.resolve()
    with only_run(output_dir, "output_dir"):
        _prepare(output_dir, resume=resume, overwrite=overwrite)
        jobs = build_jobs(settings, output_dir, config_dir=config_dir)
        write_mixture(config_dir / "mixture.yaml", output_dir)
        times = run_jobs(jobs, state_dir=output_dir / "jobs")
        results = collect_results(asdict(settings), jobs, times, output_dir)
        page = write_report(results, output_dir)
        write_json(output_dir / "results.json", results)  # last, as it says that the run is finished
        return page


def build_jobs(settings: DemoSettings, output_dir: Path, *, config_dir: Path = CONFIG_DIR) -> list[Job]:
    """Lists the study's commands.

    Args:
        settings: Size of the study.
        output_dir: Where the commands write.
        config_dir: Directory with the training configurations.

    Returns:
        The jobs. Each comes after those it needs; jobs that others wait for come first.

    Raises:
        ValueError: If a training configuration is missing.
    """
    configs = {name: config_dir / f"{name}.yaml" for name in CONFIGS}
    for name, path in configs.items():
        if not path.is_file():
            raise ValueError(
                f"{path} is missing: the demo needs its training configurations. Run the demo from a clone of the "
                f"repository, or pass the directory with {name}.yaml and the others as --config-dir."
            )
    study = MetaworldJobs(
        output_dir,
        namespace="lara-demo",
        tasks=settings.tasks,
        image_size=settings.image_size,
        num_episodes=settings.num_episodes,
        episode_length=settings.episode_length,
        eval_seed=settings.eval_seed,
        training_flags=settings.training_flags,
    )
    lam_path = (f"--policy.lam_path={study.checkpoint('lara_lam')}",)

    def training(
        name: str, title: str, config: str, data: str, *needs: str, flags: Sequence[str] = ()
    ) -> Job:
        return study.training(name, title, config=configs[config], data=data, needs=needs, flags=flags)

    return [
        study.recording(
            "videos",
            "Record action-free videos",
            episodes=settings.num_videos,
            seed=settings.video_seed,
            action_free=True,
        ),
        study.recording(
            "demos", "Record labeled demonstrations", episodes=settings.num_demos, seed=settings.demo_seed
        ),
        training("lara_lam", "Train the latent action model", "lam", "videos", "collect_videos"),
        training("lara_dit", "Train DiT only", "dit", "demos", "collect_demos"),
        training("lara", "Train LARA", "lara", "demos", "collect_demos", "train_lara_lam", flags=lam_path),
        _labeling(study),
        training(
            *("lara_labels", "Train LARA on labels", "lara", "demos", "collect_demos", "label_demos"),
            flags=(f"--policy.lam_labels={output_dir / LABELS}",),
        ),
        training(
            *("lara_mixture", "Train LARA on the mixture", "lara_mixture", MIXTURE),
            *("collect_demos", "collect_videos", "train_lara_lam"),
            flags=lam_path,
        ),
        study.evaluation("lara_dit", "Evaluate DiT only", config=configs["dit"]),
        study.evaluation("lara", "Evaluate LARA", config=configs["lara"]),
        study.evaluation("lara_labels", "Evaluate LARA on labels", config=configs["lara"]),
        study.evaluation("lara_mixture", "Evaluate LARA on the mixture", config=configs["lara_mixture"]),
        _probe(study, settings.max_pairs),
        study.zero_evaluation(),
    ]


def _labeling(study: MetaworldJobs) -> Job:
    """Labels the demonstrations, in as many randomly shifted versions as `LABEL_VERSIONS`."""
    folder = study.output_dir / LABELS
    command = (
        *("lara", "label", str(study.checkpoint("lara_lam")), str(study.data("demos")), f"--out={folder}"),
        *(f"--augmentations={LABEL_VERSIONS}", f"--random-shift={RANDOM_SHIFT}", "--device=cpu"),
    )
    return Job(
        "label_demos",
        "Label the demonstrations with latent actions",
        command,
        folder,
        folder / MANIFEST,
        needs=("collect_demos", "train_lara_lam"),
        progress="Labeling frames",
        resume=lambda: command,
    )


def _probe(study: MetaworldJobs, max_pairs: int) -> Job:
    """Measures the latent action model on the demonstrations, which it was not trained on."""
    folder = study.output_dir / PROBE
    command = (
        *("lara", "probe", str(study.checkpoint("lara_lam")), f"--dataset={study.data('demos')}"),
        *(f"--out={folder}", "--device=cpu", f"--max-pairs={max_pairs}"),
    )
    return Job(
        "probe_lara_lam",
        "Measure the latent action model on the demonstrations",
        command,
        folder,
        folder / "metrics.json",
        needs=("collect_demos", "train_lara_lam"),
    )


def write_mixture(template: Path, output_dir: Path) -> Path:
    """Writes the study's mixture file: the template with the datasets that the study records.

    Args:
        template: Mixture file whose entries are named like the recordings.
        output_dir: Folder of the study.

    Returns:
        Path of the mixture file.
    """
    load_mixture(template)
    content = read_yaml(template)
    for entry in content["entries"]:
        entry["root"] = entry["name"]
    return write_mixture_file(content, output_dir / "data" / MIXTURE)


def _prepare(output_dir: Path, *, resume: bool, overwrite: bool) -> None:
    """Creates the folder of the study, or checks that it may be continued or deleted."""
    marker = output_dir / MARKER
    if marker.is_file() and marker.read_text() == _DELETING:
        _delete_run(output_dir)  # which was interrupted
    if not output_dir.exists() or not any(output_dir.iterdir()):
        output_dir.mkdir(parents=True, exist_ok=True)
        marker.touch()
    elif not marker.is_file():
        raise ValueError(
            f"`output_dir` is {output_dir}, which holds something other than a demo run; it must be new, empty or a "
            "demo run. Pass another --output-dir."
        )
    elif overwrite:
        _delete_run(output_dir)
    elif (output_dir / "results.json").is_file() and not resume:
        raise ValueError(
            f"`output_dir` is {output_dir}, which holds a finished run; it must be new, empty or unfinished. Pass "
            "--resume to run what is missing and rewrite the report, --overwrite to delete the run and start again, or "
            "another --output-dir."
        )


def _delete_run(output_dir: Path) -> None:
    """Empties the folder of a study, but for its marker, which says so until it is done."""
    marker = output_dir / MARKER
    write_text(marker, _DELETING)
    for path in output_dir.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != marker:
            path.unlink()
    write_text(marker, "")
