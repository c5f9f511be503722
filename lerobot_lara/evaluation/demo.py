"""The demo study: does aligning a policy with a latent action model help when labeled demonstrations are few?

Scripted Meta-World demonstrations and action-free videos are recorded, a latent action model is trained on the
videos, `lara_dit` and `lara` are trained on the same demonstrations for the same number of steps, `lara` once more on
a mixture of demonstrations and videos, and all are evaluated on the same episodes as a policy that does nothing. Every
step is one command line, and all that trains
or evaluates a policy is LeRobot's own `lerobot-train` and `lerobot-eval`.
"""

import json
import logging
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path

import yaml

from lerobot_lara.evaluation.report import write_report
from lerobot_lara.evaluation.study.jobs import (
    ENVIRONMENT,
    ENVIRONMENT_DEFAULTS,
    Job,
    JobTime,
    busy_seconds,
    run_jobs,
    shell_line,
)

logger = logging.getLogger(__name__)

CONFIG_DIR = Path(__file__).parents[2] / "configs" / "demo"
MARKER = ".lara-demo"  # says that a directory is a demo run, and may be deleted with --overwrite
# Zero policy first: the report's tables and figures keep this order.
ARMS = ("zero", "lara_dit", "lara", "lara_mixture")
CONFIGS = ("lam", "dit", "lara", "lara_mixture", "mixture")
REPORTED_PACKAGES = (
    "lerobot_policy_lara",
    "lerobot",
    "torch",
    "diffusers",
    "transformers",
    "metaworld",
    "mujoco",
)


@dataclass(frozen=True)
class DemoSettings:
    """Size of the study. What concerns training (steps, batch, architecture) is in `configs/demo/*.yaml`.

    Args:
        tasks: Meta-World tasks; one policy per arm learns all of them.
        num_demos: Labeled demonstrations per task.
        num_videos: Action-free videos per task.
        num_episodes: Evaluation episodes per task and arm.
        episode_length: Steps after which an evaluation episode counts as failed.
        image_size: Side of the images, in pixels.
        demo_seed: Seed of the demonstrations.
        video_seed: Seed of the videos; another one, so that no episode is in both sets.
        eval_seed: Seed of the first evaluation episode, counted up from there.
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


# The same path in under four minutes: proves that everything runs, learns nothing.
QUICK_SETTINGS = replace(
    DemoSettings(),
    tasks=("door-close-v3",),
    num_demos=3,
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
        output_dir: Directory for data, checkpoints, evaluations, `results.json` and `report.html`. A run that was
            cut off goes on where it stopped.
        settings: Size of the study.
        resume: Accept a finished run: what is missing is done again, and the report is written anew.
        overwrite: Delete an earlier run first.
        config_dir: Directory with the configurations `CONFIGS`.

    Returns:
        Path of the report.

    Raises:
        ValueError: If `output_dir` holds a finished run and neither `resume` nor `overwrite` is given, or holds
            something else, or was begun with other settings; or if the configurations are not found.
        JobError: If a command fails.
    """
    settings = settings or DemoSettings()
    output_dir = output_dir.resolve()
    _prepare(output_dir, resume=resume, overwrite=overwrite)
    jobs = build_jobs(settings, output_dir, config_dir=config_dir)
    write_mixture(config_dir / "mixture.yaml", output_dir)
    times = run_jobs(jobs, state_dir=output_dir / "jobs")
    results = collect_results(settings, jobs, times, output_dir)
    (output_dir / "results.json").write_text(json.dumps(results, indent=2))
    return write_report(results, output_dir)


def build_jobs(settings: DemoSettings, output_dir: Path, *, config_dir: Path = CONFIG_DIR) -> list[Job]:
    """Lists the study's commands.

    Args:
        settings: Size of the study.
        output_dir: Where the commands write.
        config_dir: Directory with the training configurations.

    Returns:
        Jobs, each after those it needs, and otherwise those first that others wait for.

    Raises:
        ValueError: If a training configuration is missing.
    """
    configs = {name: config_dir / f"{name}.yaml" for name in CONFIGS}
    for name, path in configs.items():
        if not path.is_file():
            raise ValueError(
                f"{path} not found: the demo needs its training configurations. Run it from a clone of the "
                f"repository, or give the directory with {name}.yaml and the others as --config-dir."
            )
    data, train = output_dir / "data", output_dir / "train"

    def collect(name: str, title: str, episodes: int, seed: int, *flags: str) -> Job:
        command = (
            *("lara", "collect-demos", "--tasks", ",".join(settings.tasks), "--episodes", str(episodes)),
            *("--image-size", str(settings.image_size), "--seed", str(seed)),
            *(
                "--root",
                str(data / name),
                "--repo-id",
                f"lara-demo/{name}",
                "--workers",
                "1",
                "--resume",
                *flags,
            ),
        )
        product = data / name / "meta" / "info.json"
        return Job(f"collect_{name}", title, command, data / name, product, progress="Recording")

    def training(
        name: str, config: str, title: str, dataset: str, needs: tuple[str, ...], *flags: str
    ) -> Job:
        path = data / dataset
        place = f"--dataset.repo_id={path}" if path.suffix == ".yaml" else f"--dataset.root={path}"
        command = (
            *("lerobot-train", f"--config_path={configs[config]}"),
            *(
                place,
                f"--output_dir={train / name}",
                *settings.training_flags,
                *flags,
            ),
        )
        product = checkpoint(output_dir, name) / "model.safetensors"
        inputs = (configs[config], *([configs["mixture"]] if path.suffix == ".yaml" else []))
        return Job(
            f"train_{name}",
            title,
            command,
            train / name,
            product,
            needs=needs,
            inputs=inputs,
            progress="Training",
        )

    def evaluation(
        name: str, title: str, render_interval: int, *program: str, needs: tuple[str, ...] = ()
    ) -> Job:
        directory = output_dir / "eval" / name
        command = (
            *program,
            *("--env.type=metaworld_fast", f"--env.task={','.join(settings.tasks)}"),
            f"--env.image_size={settings.image_size}",
            f"--env.episode_length={settings.episode_length}",
            f"--env.render_interval={render_interval}",
            *(f"--eval.n_episodes={settings.num_episodes}", "--eval.batch_size=1"),
            *(f"--seed={settings.eval_seed}", f"--output_dir={directory}"),
        )
        product = directory / "eval_info.json"
        return Job(
            f"eval_{name}",
            title,
            command,
            directory,
            product,
            needs=needs,
            progress="Stepping through eval batches",
        )

    def policy_evaluation(name: str, config: str, title: str) -> Job:
        # Images between two action chunks are never looked at, so they need not be rendered.
        chunk = int(yaml.safe_load(configs[config].read_text())["policy"]["n_action_steps"])
        policy = f"--policy.path={checkpoint(output_dir, name)}"
        return evaluation(name, title, chunk, "lerobot-eval", policy, needs=(f"train_{name}",))

    lam_path = checkpoint(output_dir, "lara_lam")
    quality = output_dir / "eval" / "lara_lam"
    return [
        collect(
            "videos", "Record action-free videos", settings.num_videos, settings.video_seed, "--action-free"
        ),
        collect("demos", "Record labeled demonstrations", settings.num_demos, settings.demo_seed),
        training("lara_lam", "lam", "Train the latent action model", "videos", ("collect_videos",)),
        training("lara_dit", "dit", "Train DiT only", "demos", ("collect_demos",)),
        training(
            *("lara", "lara", "Train LARA", "demos", ("collect_demos", "train_lara_lam")),
            f"--policy.lam_path={lam_path}",
        ),
        training(
            *("lara_mixture", "lara_mixture", "Train LARA on the mixture", "mixture.yaml"),
            ("collect_demos", "collect_videos", "train_lara_lam"),
            f"--policy.lam_path={lam_path}",
        ),
        policy_evaluation("lara_dit", "dit", "Evaluate DiT only"),
        policy_evaluation("lara", "lara", "Evaluate LARA"),
        policy_evaluation("lara_mixture", "lara_mixture", "Evaluate LARA on the mixture"),
        Job(
            "eval_lara_lam",
            "Measure the latent action model on the demonstrations",
            (
                *("python", "-m", "lerobot_lara.evaluation.latent_quality", f"--lam_path={lam_path}"),
                *(f"--root={data / 'demos'}", f"--output={quality}", f"--max_pairs={settings.max_pairs}"),
            ),
            quality,
            quality / "metrics.json",
            needs=("collect_demos", "train_lara_lam"),
        ),
        evaluation(
            *("zero", "Evaluate the zero policy", settings.episode_length),
            *("python", "-m", "lerobot_lara.evaluation.study.zero_policy"),
        ),
    ]


def write_mixture(template: Path, output_dir: Path) -> Path:
    """Writes the study's mixture file: the template's, with the datasets that the study records.

    Returns:
        Its path; an equal file is left alone.
    """
    content = yaml.safe_load(template.read_text())
    for entry in content["entries"]:
        entry["root"] = entry["name"]
    path = output_dir / "data" / "mixture.yaml"
    text = yaml.safe_dump(content, sort_keys=False)
    if not path.is_file() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return path


def checkpoint(output_dir: Path, name: str) -> Path:
    """Returns the last checkpoint of a policy type's training below `output_dir`."""
    return output_dir / "train" / name / "checkpoints" / "last" / "pretrained_model"


def collect_results(
    settings: DemoSettings, jobs: Sequence[Job], times: Mapping[str, JobTime], output_dir: Path
) -> dict:
    """Gathers what a finished study found.

    Returns:
        The content of `results.json`: "arms" ({arm: {task: {"successes", "episodes"}}}), "latent_action_model",
        "settings", "training" (steps, batch size and the policy's fields as configured), "seeds", "versions",
        "hardware", "wall_times" (seconds per job, and "total" from begin to end) and "commands".
    """
    quality = json.loads((output_dir / "eval" / "lara_lam" / "metrics.json").read_text())
    plain_settings = asdict(settings)
    seeds = {
        name.removesuffix("_seed"): plain_settings.pop(name)
        for name in ("demo_seed", "video_seed", "eval_seed")
    }
    training = {
        name: json.loads((checkpoint(output_dir, name) / "train_config.json").read_text())
        for name in ("lara_lam", *ARMS[1:])
    }
    seeds["training"] = training["lara"]["seed"]
    return {
        "arms": {arm: read_successes(output_dir / "eval" / arm / "eval_info.json") for arm in ARMS},
        "latent_action_model": quality,
        "settings": plain_settings,
        "training": {
            name: {key: config[key] for key in ("steps", "batch_size", "policy")}
            for name, config in training.items()
        },
        "seeds": seeds,
        "versions": {"python": platform.python_version(), **_package_versions()},
        "hardware": {"cpus": os.cpu_count(), "machine": platform.machine(), "system": platform.system()},
        "wall_times": {
            **{job.name: times[job.name].seconds for job in jobs},
            "total": busy_seconds(times[job.name] for job in jobs),
        },
        "titles": {job.name: job.title for job in jobs},
        "environment": {**ENVIRONMENT_DEFAULTS, **ENVIRONMENT},
        "commands": {job.name: shell_line(job.command) for job in jobs},
    }


def read_successes(eval_info: Path) -> dict[str, dict[str, int]]:
    """Counts successes per task in the `eval_info.json` of `lerobot-eval`.

    Returns:
        {task: {"successes": ..., "episodes": ...}}, in the order of evaluation.
    """
    counts = {}
    for task in json.loads(eval_info.read_text())["per_task"]:
        successes = task["metrics"]["successes"]
        counts[task["task_group"]] = {"successes": sum(map(bool, successes)), "episodes": len(successes)}
    return counts


def _prepare(output_dir: Path, *, resume: bool, overwrite: bool) -> None:
    marker = output_dir / MARKER
    if not output_dir.exists() or not any(output_dir.iterdir()):
        output_dir.mkdir(parents=True, exist_ok=True)
        marker.touch()
    elif not marker.is_file():
        raise ValueError(
            f"output_dir {output_dir} exists and is not a demo run: choose another --output-dir."
        )
    elif overwrite:
        shutil.rmtree(output_dir)
        output_dir.mkdir()
        marker.touch()
    elif (output_dir / "results.json").is_file() and not resume:
        raise ValueError(
            f"output_dir {output_dir} holds a finished run: --resume writes its report again (and does what is "
            "missing), --overwrite deletes it and starts anew, --output-dir keeps it and works elsewhere."
        )


def _package_versions() -> dict[str, str]:
    versions = {}
    for package in REPORTED_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
