"""Runs the cells of the label-efficiency study; see README.md in this folder."""

import argparse
import csv
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from lerobot_lara.evaluation.study.jobs import Job, run_jobs
from lerobot_lara.evaluation.study.training_log import parse_training_log

logger = logging.getLogger("label_efficiency")

CONFIGS = Path(__file__).parents[2] / "configs" / "demo"
TASKS = (
    "button-press-topdown-v3",
    "coffee-button-v3",
    "faucet-open-v3",
    "plate-slide-v3",
    "window-close-v3",
)
VALIDATION_TASKS = ("drawer-close-v3", "window-open-v3", "handle-press-v3")
LABELS = (2, 5, 10)
SEEDS = (0, 1, 2)
MORE_SEEDS = (3, 4)
NUM_VIDEOS = 50
NUM_SCENES = 50
FIRST_SCENE = 1000
EPISODE_LENGTH = 200
LONGER = 1.8
STEP_RATIO = 2.2
TRAINING_METRICS = ("flow_loss", "alignment_centered_cosine", "alignment_retrieval", "latent_effective_rank")
FPS = 80
FRAME_GAP = 16


@dataclass(frozen=True)
class Arm:
    """One way to train a policy.

    Args:
        config: File in `configs/demo`.
        lam: "videos" or "labels", what its latent action model is trained on; None without one.
        mixed: Action-free samples are mixed into its batches.
        flags: Added to its `lerobot-train` command.
        frame_gap: K of the policy and of its latent action model.
        steps: Times the steps of `config`.
        from_lam_encoder: Its image encoder starts from the latent action model's.
        more_seeds: Belongs to the main comparison.
    """

    config: str
    lam: str | None = None
    mixed: bool = False
    flags: tuple[str, ...] = ()
    frame_gap: int = FRAME_GAP
    steps: float = 1
    from_lam_encoder: bool = False
    more_seeds: bool = field(default=False, kw_only=True)


REFERENCE_LOSS = (
    "--policy.alignment_target=joint",
    "--policy.alignment_centering=false",
    "--policy.alignment_head=linear",
    "--policy.alignment_pooling=last",
)
ARMS = {
    "dit": Arm("dit", more_seeds=True),
    "dit_longer": Arm("dit", steps=LONGER),
    "dit_lam_encoder": Arm("dit", "videos", from_lam_encoder=True),
    "lara": Arm("lara", "videos", more_seeds=True),
    "lara_frozen": Arm("lara", "videos", flags=("--policy.freeze_lam=true",)),
    "lara_joint": Arm("lara", "videos", flags=("--policy.alignment_target=joint",)),
    "lara_reference": Arm("lara", "videos", flags=REFERENCE_LOSS),
    "lara_labeled": Arm("lara", "labels"),
    "lara_mixture": Arm("lara_mixture", "videos", mixed=True),
}
# The second study: three times the steps, and for `dit` as much time as `lara` then takes.
FOLLOW_UP = {
    "dit_3x": Arm("dit", steps=3),
    "dit_3x_longer": Arm("dit", steps=3 * STEP_RATIO),
    "lara_3x": Arm("lara", "videos", steps=3),
    "lara_mixture_3x": Arm("lara_mixture", "videos", mixed=True, steps=3),
}
CONTRASTIVE = ("--policy.alignment_loss=contrastive",)
RELATIVE = (*CONTRASTIVE, "--policy.alignment_relative=true")
# For the validation tasks.
REMEDIES = {
    "lara_contrastive": Arm("lara", "videos", flags=CONTRASTIVE),
    "lara_relative": Arm("lara", "videos", flags=RELATIVE),
    "lara_joint_relative": Arm("lara", "videos", flags=(*RELATIVE, "--policy.alignment_target=joint")),
    "lara_mixture_contrastive": Arm("lara_mixture", "videos", mixed=True, flags=CONTRASTIVE),
    "lara_weight_05": Arm("lara", "videos", flags=("--policy.alignment_loss_weight=0.5",)),
    "lara_weight_2": Arm("lara", "videos", flags=("--policy.alignment_loss_weight=2",)),
    "lara_layer_1": Arm("lara", "videos", flags=("--policy.alignment_layer=1",)),
    "lara_layer_4": Arm("lara", "videos", flags=("--policy.alignment_layer=4",)),
    "lara_last_token": Arm("lara", "videos", flags=("--policy.alignment_pooling=last",)),
    "lara_gap_32": Arm("lara", "videos", frame_gap=32),
    "lara_mixture_05": Arm(
        "lara_mixture", "videos", mixed=True, flags=("--policy.alignment_loss_weight=0.5",)
    ),
    "lara_mixture_2": Arm("lara_mixture", "videos", mixed=True, flags=("--policy.alignment_loss_weight=2",)),
}
ALL_ARMS = ARMS | FOLLOW_UP | REMEDIES


class Study:
    """Lists the jobs of the chosen cells.

    Args:
        output_dir: Folder of the study.
        tasks: Meta-World tasks.
        scenes: Evaluation scenes per task.
        videos: Action-free videos per task.
        flags: Added to all training commands.
        held_out: Cells end with the error on held-out demonstrations in the place of evaluation scenes.
    """

    def __init__(
        self,
        output_dir: Path,
        *,
        tasks: Sequence[str],
        scenes: int,
        videos: int,
        flags: Sequence[str] = (),
        held_out: bool = False,
    ) -> None:
        self.output_dir = output_dir
        self.tasks = tuple(tasks)
        self.scenes = scenes
        self.videos = videos
        self.flags = tuple(flags)
        self.held_out = held_out

    def jobs(self, arms: Iterable[str], labels: Iterable[int], seeds: Sequence[int] | None) -> list[Job]:
        """All jobs of the cells, each after those that it needs.

        Args:
            arms: Names of `ALL_ARMS`.
            labels: Labeled demonstrations per task.
            seeds: Training seeds; None is those registered.
        """
        listed = {job.name: job for job in self._recordings(max(LABELS))}
        for number in labels:
            for name in arms:
                arm = ALL_ARMS[name]
                registered = SEEDS + (MORE_SEEDS if arm.more_seeds else ())
                for seed in registered if seeds is None else seeds:
                    for job in self._cell(name, number, seed):
                        listed.setdefault(job.name, job)
        if not self.held_out:
            program = ("python", "-m", "lerobot_lara.evaluation.study.zero_policy")
            listed["eval_zero"] = self._evaluation("zero", program)
        return list(listed.values())

    def write_mixtures(self, labels: Iterable[int]) -> None:
        """Writes the mixture files that the training commands read."""
        folder = self.output_dir / "data"
        folder.mkdir(parents=True, exist_ok=True)
        videos = {
            "name": "videos",
            "repo_id": "study/videos",
            "root": "videos",
            "weight": 1,
            "action_free": True,
        }
        files: dict[str, list[dict]] = {"videos": [videos]}
        for number in labels:
            # Tasks take turns in the recording, so the first n of each are at its beginning.
            episodes = list(range(number * len(self.tasks)))
            demos = {
                "name": "demos",
                "repo_id": "study/demos",
                "root": "demos",
                "weight": 2,
                "episodes": episodes,
            }
            files |= {f"labels_{number}": [demos], f"mixed_{number}": [demos, videos]}
        for frame_gap in {arm.frame_gap for arm in ALL_ARMS.values()}:
            for name, entries in files.items():
                content = yaml.safe_dump(
                    {"frame_gap_s": frame_gap / FPS, "entries": entries}, sort_keys=False
                )
                (folder / f"{name}{_suffix(frame_gap)}.yaml").write_text(content)

    def _recordings(self, number: int) -> list[Job]:
        def collect(name: str, episodes: int, seed: int, *flags: str) -> Job:
            folder = self.output_dir / "data" / name
            command = (
                *("lara", "collect-demos", "--tasks", ",".join(self.tasks), "--episodes", str(episodes)),
                *("--image-size", "64", "--seed", str(seed), "--root", str(folder)),
                *("--repo-id", f"study/{name}", "--workers", "1", "--resume", *flags),
            )
            product = folder / "meta" / "info.json"
            return Job(f"collect_{name}", f"Record {name}", command, folder, product, progress="Recording")

        return [collect("videos", self.videos, 1, "--action-free"), collect("demos", number, 0)]

    def _cell(self, name: str, number: int, seed: int) -> list[Job]:
        arm, cell, suffix = ALL_ARMS[name], f"{name}_{number}_{seed}", _suffix(ALL_ARMS[name].frame_gap)
        gap = (f"--policy.frame_gap={arm.frame_gap}",) if suffix else ()
        jobs, flags = [], [*arm.flags, *gap]
        needs = ["collect_demos"]
        if arm.lam is not None:
            data = ("videos" if arm.lam == "videos" else f"labels_{number}") + suffix
            # To lend its encoder to the policy, a latent action model has to have one of the same width.
            width = yaml.safe_load((CONFIGS / "dit.yaml").read_text())["policy"]["vision_encoder_width"]
            same_encoder = (f"--policy.frame_encoder_width={width}",) if arm.from_lam_encoder else ()
            lam = f"lam_{'wide_' if arm.from_lam_encoder else ''}{data}_{seed}"
            recorded = ["collect_videos", "collect_demos"]
            jobs.append(self._training(lam, "lam", data, seed, recorded, *same_encoder, *gap))
            needs.append(f"train_{lam}")
            if arm.from_lam_encoder:
                start = self.output_dir / "train" / f"start_{cell}"
                jobs.append(self._encoder_start(start, cell, number, seed, lam))
                needs.append(f"start_{cell}")
                flags.append(f"--policy.path={start}")
            else:
                flags.append(f"--policy.lam_path={self._checkpoint(lam)}")
        if arm.mixed:
            needs.append("collect_videos")
        data = (f"mixed_{number}" if arm.mixed else f"labels_{number}") + suffix
        if arm.steps != 1:
            steps = yaml.safe_load((CONFIGS / f"{arm.config}.yaml").read_text())["steps"]
            flags.append(f"--steps={round(arm.steps * steps)}")
        jobs.append(self._training(cell, arm.config, data, seed, needs, *flags))
        if self.held_out:
            jobs.append(self._held_out_error(cell, number))
        else:
            program = ("lerobot-eval", f"--policy.path={self._checkpoint(cell)}")
            jobs.append(self._evaluation(cell, program, needs=(f"train_{cell}",)))
        return jobs

    def _training(
        self, name: str, config: str, data: str, seed: int, needs: Sequence[str], *flags: str
    ) -> Job:
        folder, mixture = self.output_dir / "train" / name, self.output_dir / "data" / f"{data}.yaml"
        path = CONFIGS / f"{config}.yaml"
        command = (
            *(
                "lerobot-train",
                f"--config_path={path}",
                f"--dataset.repo_id={mixture}",
                "--dataset.root=null",
            ),
            *(f"--output_dir={folder}", f"--seed={seed}", *flags, *self.flags),
        )
        product = self._checkpoint(name) / "model.safetensors"
        return Job(
            f"train_{name}",
            f"Train {name}",
            command,
            folder,
            product,
            needs=tuple(needs),
            inputs=(path, mixture),
            progress="Training",
        )

    def _encoder_start(self, start: Path, cell: str, number: int, seed: int, lam: str) -> Job:
        command = (
            *("python", str(Path(__file__).with_name("start_from_lam_encoder.py"))),
            *(
                f"--config={CONFIGS / 'dit.yaml'}",
                f"--mixture={self.output_dir / 'data' / f'labels_{number}.yaml'}",
            ),
            *(f"--lam_path={self._checkpoint(lam)}", f"--seed={seed}", f"--output={start}"),
        )
        needs = ("collect_demos", f"train_{lam}")
        return Job(f"start_{cell}", f"Start {cell}", command, start, start / "model.safetensors", needs=needs)

    def _evaluation(self, name: str, program: tuple[str, ...], needs: tuple[str, ...] = ()) -> Job:
        folder = self.output_dir / "eval" / name
        chunk = yaml.safe_load((CONFIGS / "dit.yaml").read_text())["policy"]["n_action_steps"]
        command = (
            *program,
            *("--env.type=metaworld_fast", f"--env.task={','.join(self.tasks)}", "--env.image_size=64"),
            *(f"--env.episode_length={EPISODE_LENGTH}", f"--env.render_interval={chunk}"),
            *(f"--eval.n_episodes={self.scenes}", "--eval.batch_size=1", f"--seed={FIRST_SCENE}"),
            f"--output_dir={folder}",
        )
        product = folder / "eval_info.json"
        return Job(f"eval_{name}", f"Evaluate {name}", command, folder, product, needs=needs)

    def _held_out_error(self, cell: str, number: int) -> Job:
        folder = self.output_dir / "held_out" / cell
        command = (
            *("python", str(Path(__file__).with_name("held_out_error.py"))),
            *(f"--policy.path={self._checkpoint(cell)}", f"--root={self.output_dir / 'data' / 'demos'}"),
            *(f"--first_episode={number * len(self.tasks)}", f"--output_dir={folder}"),
        )
        product = folder / "held_out.json"
        return Job(
            f"held_out_{cell}", f"Held-out error {cell}", command, folder, product, needs=(f"train_{cell}",)
        )

    def _checkpoint(self, name: str) -> Path:
        return self.output_dir / "train" / name / "checkpoints" / "last" / "pretrained_model"


def collect_results(output_dir: Path) -> list[dict[str, str]]:
    """One row per finished cell and task: arm, labels, seed, task, and the scenes' outcomes as a string of 0 and 1.

    The expert's outcomes are those of its attempts while it recorded the demonstrations.
    """
    rows = []
    recorded = output_dir / "data" / "demos" / "meta" / "collection.json"
    if recorded.exists():
        attempts: dict[str, str] = {}
        for episode in json.loads(recorded.read_text())["episodes"]:
            outcomes = "0" * episode["failed_attempts"] + "1"
            attempts[episode["task"]] = attempts.get(episode["task"], "") + outcomes
        for task, outcomes in sorted(attempts.items()):
            rows.append({"arm": "expert", "labels": "", "seed": "", "task": task, "outcomes": outcomes})
    for path in sorted((output_dir / "eval").glob("*/eval_info.json")):
        arm, labels, seed = (path.parent.name, "", "")
        if arm != "zero":
            arm, labels, seed = path.parent.name.rsplit("_", 2)
        for task in json.loads(path.read_text())["per_task"]:
            outcomes = "".join(str(int(success)) for success in task["metrics"]["successes"])
            rows.append(
                {"arm": arm, "labels": labels, "seed": seed, "task": task["task_group"], "outcomes": outcomes}
            )
    return rows


def collect_training(output_dir: Path) -> list[dict[str, str]]:
    """One row per finished training, latent action models too: its seconds, and what it logged last of each metric.

    The seconds depend on what else the machine did.
    """
    rows = []
    for path in sorted((output_dir / "jobs").glob("train_*.json")):
        job = json.loads(path.read_text())
        if job["status"] == "done":
            curves = parse_training_log(path.with_suffix(".log"))
            last = {name: f"{curves[name][-1][1]:g}" if name in curves else "" for name in TRAINING_METRICS}
            name = path.stem.removeprefix("train_")
            rows.append({"training": name, "seconds": f"{job['seconds']:.0f}"} | last)
    return rows


def collect_held_out_errors(output_dir: Path) -> list[dict[str, str]]:
    """One row per finished cell and held-out episode."""
    rows = []
    for path in sorted((output_dir / "held_out").glob("*/held_out.json")):
        arm, labels, seed = path.parent.name.rsplit("_", 2)
        for episode, error in json.loads(path.read_text()).items():
            row = {"arm": arm, "labels": labels, "seed": seed, "episode": episode, "error": f"{error:.5f}"}
            rows.append(row)
    return rows


def _write(rows: list[dict[str, str]], path: Path) -> None:
    if not rows:
        logger.warning("Nothing is finished yet: %s is not written", path)
        return
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    logger.info("%d rows in %s", len(rows), path)


def _suffix(frame_gap: int) -> str:
    return "" if frame_gap == FRAME_GAP else f"_gap_{frame_gap}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--arms", default=",".join(ARMS), help="names of arms, separated by commas")
    parser.add_argument("--labels", default=",".join(map(str, LABELS)), help="demonstrations per task")
    parser.add_argument("--seeds", help="training seeds; default: those registered")
    parser.add_argument("--validation", action="store_true", help="the validation tasks instead")
    parser.add_argument(
        "--held-out", action="store_true", help="errors on held-out demonstrations, no evaluation scenes"
    )
    parser.add_argument("--collect", action="store_true", help="run nothing; collect what is there")
    parser.add_argument("--quick", action="store_true", help="one task, few steps: checks that all runs")
    arguments = parser.parse_args()
    # LeRobot's import left a handler that drops these messages.
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    tasks = VALIDATION_TASKS if arguments.validation else TASKS
    labels = [int(number) for number in arguments.labels.split(",")]
    allowed = ALL_ARMS if arguments.validation else ARMS | FOLLOW_UP
    unknown = set(arguments.arms.split(",")) - set(allowed)
    if unknown or not set(labels) <= set(LABELS):
        parser.error(f"choose --arms of {', '.join(allowed)} and --labels of {LABELS}")
    if arguments.held_out and max(LABELS) in labels:
        parser.error(f"with --held-out, --labels {max(LABELS)} leaves no demonstration to hold out")
    quick = ("--steps=3", "--batch_size=6", "--log_freq=1") if arguments.quick else ()
    study = Study(
        arguments.output_dir.resolve(),
        tasks=tasks[:1] if arguments.quick else tasks,
        scenes=1 if arguments.quick else NUM_SCENES,
        videos=2 if arguments.quick else NUM_VIDEOS,
        flags=quick,
        held_out=arguments.held_out,
    )
    seeds = None if arguments.seeds is None else [int(seed) for seed in arguments.seeds.split(",")]
    if not arguments.collect:
        study.write_mixtures(LABELS)
        jobs = study.jobs(arguments.arms.split(","), labels, seeds)
        run_jobs(jobs, state_dir=study.output_dir / "jobs")
    if arguments.held_out:
        rows, path = collect_held_out_errors(study.output_dir), study.output_dir / "held_out.csv"
    else:
        rows, path = collect_results(study.output_dir), study.output_dir / "results.csv"
    _write(rows, path)
    _write(collect_training(study.output_dir), study.output_dir / "training.csv")


if __name__ == "__main__":
    main()
