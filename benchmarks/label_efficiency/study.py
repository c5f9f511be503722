"""Runs the cells of the label-efficiency study; see README.md in this folder."""

import argparse
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml
from arms import (
    ALL_ARMS,
    ARMS,
    EPISODE_LENGTH,
    FIRST_SCENE,
    FOLLOW_UP,
    FPS,
    FRAME_GAP,
    IMAGE_SIZE,
    LABELS,
    MORE_SEEDS,
    NUM_SCENES,
    NUM_VIDEOS,
    SEEDS,
    TASKS,
    VALIDATION_TASKS,
    Arm,
)
from collect import collect_held_out_errors, collect_results, collect_training, write_rows

from lerobot_lara.evaluation.study.jobs import Job, run_jobs
from lerobot_lara.evaluation.study.metaworld_jobs import MetaworldJobs, write_mixture_file

CONFIGS = Path(__file__).parents[2] / "configs" / "demo"


class Study:
    """Lists the jobs of the chosen cells.

    Args:
        output_dir: Folder of the study.
        tasks: Meta-World tasks.
        scenes: Evaluation scenes per task.
        videos: Action-free videos per task.
        flags: Flags added to all training commands.
        held_out: Whether cells end with the error on held-out demonstrations instead of evaluation scenes.
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
        self.videos = videos
        self.held_out = held_out
        self._build = MetaworldJobs(
            output_dir,
            namespace="study",
            tasks=tuple(tasks),
            image_size=IMAGE_SIZE,
            num_episodes=scenes,
            episode_length=EPISODE_LENGTH,
            eval_seed=FIRST_SCENE,
            training_flags=tuple(flags),
        )

    def jobs(self, arms: Iterable[str], labels: Iterable[int], seeds: Sequence[int] | None) -> list[Job]:
        """Lists all jobs of the cells, each after those that it needs.

        Args:
            arms: Names of arms in `ALL_ARMS`.
            labels: Numbers of labeled demonstrations per task.
            seeds: Training seeds; None selects the registered ones.
        """
        recordings = [
            self._build.recording("videos", "Record videos", episodes=self.videos, seed=1, action_free=True),
            self._build.recording("demos", "Record demos", episodes=max(LABELS), seed=0),
        ]
        listed = {job.name: job for job in recordings}
        for number in labels:
            for name in arms:
                registered = SEEDS + (MORE_SEEDS if ALL_ARMS[name].more_seeds else ())
                for seed in registered if seeds is None else seeds:
                    for job in self._cell(name, number, seed):
                        listed.setdefault(job.name, job)
        if not self.held_out:
            zero = self._build.zero_evaluation()
            listed[zero.name] = zero
        return list(listed.values())

    def write_mixtures(self, labels: Iterable[int]) -> None:
        """Writes the mixture files that the training commands read, for the given numbers of labels."""
        videos = {
            "name": "videos",
            "repo_id": "study/videos",
            "root": "videos",
            "weight": 1,
            "action_free": True,
        }
        files: dict[str, list[dict]] = {"videos": [videos]}
        for number in labels:
            demos = {
                "name": "demos",
                "repo_id": "study/demos",
                "root": "demos",
                "weight": 2,
                # The tasks take turns in the recording, so that the first n of each are at its beginning.
                "episodes": list(range(self._num_labeled(number))),
            }
            files |= {f"labels_{number}": [demos], f"mixed_{number}": [demos, videos]}
        for frame_gap in {arm.frame_gap for arm in ALL_ARMS.values()}:
            for name, entries in files.items():
                content = {"frame_gap_s": frame_gap / FPS, "entries": entries}
                write_mixture_file(content, self._build.data(_mixture(name, frame_gap)))

    def _num_labeled(self, number: int) -> int:
        """Labeled demonstrations of all tasks together."""
        return number * len(self._build.tasks)

    def _cell(self, name: str, number: int, seed: int) -> list[Job]:
        """Jobs of one training with its evaluation, and of what it is trained from."""
        arm, cell = ALL_ARMS[name], f"{name}_{number}_{seed}"
        jobs, needs, flags = [], ["collect_demos"], [*arm.flags, *_frame_gap_flags(arm)]
        if arm.lam is not None:
            lam = self._lam(arm, number, seed)
            jobs.append(lam)
            needs.append(lam.name)
            lam_path = self._build.checkpoint(lam.name.removeprefix("train_"))
            if arm.from_lam_encoder:
                start = self._encoder_start(cell, number, seed, lam.name, lam_path)
                jobs.append(start)
                needs.append(start.name)
                flags.append(f"--policy.path={start.output}")
            else:
                flags.append(f"--policy.lam_path={lam_path}")
        if arm.mixed:
            needs.append("collect_videos")
        if arm.steps != 1:
            flags.append(f"--steps={round(arm.steps * _config(arm.config)['steps'])}")
        data = _mixture(f"{'mixed' if arm.mixed else 'labels'}_{number}", arm.frame_gap)
        jobs.append(self._training(cell, arm.config, data, seed, needs, flags))
        if self.held_out:
            jobs.append(self._held_out_error(cell, number))
        else:
            jobs.append(self._build.evaluation(cell, f"Evaluate {cell}", config=_config_path(arm.config)))
        return jobs

    def _lam(self, arm: Arm, number: int, seed: int) -> Job:
        """Trains the latent action model of an arm."""
        data = _mixture("videos" if arm.lam == "videos" else f"labels_{number}", arm.frame_gap)
        flags = _frame_gap_flags(arm)
        if arm.from_lam_encoder:
            # Only an encoder as wide as the policy's can be copied into it.
            flags.insert(
                0, f"--policy.frame_encoder_width={_config('dit')['policy']['vision_encoder_width']}"
            )
        name = f"lam_{'wide_' if arm.from_lam_encoder else ''}{Path(data).stem}_{seed}"
        return self._training(name, "lam", data, seed, ["collect_videos", "collect_demos"], flags)

    def _training(
        self, name: str, config: str, data: str, seed: int, needs: Sequence[str], flags: Sequence[str]
    ) -> Job:
        return self._build.training(
            name,
            f"Train {name}",
            config=_config_path(config),
            data=data,
            needs=needs,
            flags=(f"--seed={seed}", *flags),
        )

    def _encoder_start(self, cell: str, number: int, seed: int, lam: str, lam_path: Path) -> Job:
        """Writes the untrained policy whose image encoder is the latent action model's."""
        start = self.output_dir / "train" / f"start_{cell}"
        mixture = self._build.data(f"labels_{number}.yaml")
        command = (
            *("python", str(Path(__file__).with_name("start_from_lam_encoder.py"))),
            *(f"--config={_config_path('dit')}", f"--mixture={mixture}", f"--lam_path={lam_path}"),
            *(f"--seed={seed}", f"--output={start}"),
        )
        product, needs = start / "model.safetensors", ("collect_demos", lam)
        return Job(f"start_{cell}", f"Start {cell}", command, start, product, needs=needs)

    def _held_out_error(self, cell: str, number: int) -> Job:
        folder = self.output_dir / "held_out" / cell
        command = (
            *("python", str(Path(__file__).with_name("held_out_error.py"))),
            *(f"--policy.path={self._build.checkpoint(cell)}", f"--root={self._build.data('demos')}"),
            *(f"--first_episode={self._num_labeled(number)}", f"--output_dir={folder}"),
        )
        product, needs = folder / "held_out.json", (f"train_{cell}",)
        return Job(f"held_out_{cell}", f"Held-out error {cell}", command, folder, product, needs=needs)


def _config_path(name: str) -> Path:
    return CONFIGS / f"{name}.yaml"


def _config(name: str) -> dict:
    return yaml.safe_load(_config_path(name).read_text())


def _mixture(name: str, frame_gap: int) -> str:
    """Name of a mixture file; the registered frame gap is not part of it."""
    return f"{name}.yaml" if frame_gap == FRAME_GAP else f"{name}_gap_{frame_gap}.yaml"


def _frame_gap_flags(arm: Arm) -> list[str]:
    return [] if arm.frame_gap == FRAME_GAP else [f"--policy.frame_gap={arm.frame_gap}"]


def main() -> None:
    """Runs the chosen cells and collects the results of all that are finished."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--arms", default=",".join(ARMS), help="names of arms, separated by commas")
    parser.add_argument("--labels", default=",".join(map(str, LABELS)), help="demonstrations per task")
    parser.add_argument("--seeds", help="training seeds (default: those registered)")
    parser.add_argument("--validation", action="store_true", help="use the validation tasks")
    parser.add_argument(
        "--held-out", action="store_true", help="measure errors on held-out demonstrations, not success"
    )
    parser.add_argument("--collect", action="store_true", help="run nothing; collect the existing results")
    parser.add_argument(
        "--quick", action="store_true", help="one task, few steps: checks that everything runs"
    )
    arguments = parser.parse_args()
    # LeRobot's import left a handler that drops these messages.
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    arms, labels = arguments.arms.split(","), [int(number) for number in arguments.labels.split(",")]
    allowed = ALL_ARMS if arguments.validation else ARMS | FOLLOW_UP
    if not set(arms) <= set(allowed):
        parser.error(f"`--arms` is {arguments.arms}; choose from {', '.join(allowed)}")
    if not set(labels) <= set(LABELS):
        parser.error(f"`--labels` is {arguments.labels}; choose from {', '.join(map(str, LABELS))}")
    if arguments.held_out and max(LABELS) in labels:
        parser.error(f"`--labels` has {max(LABELS)}, which leaves no demonstration to hold out")
    tasks = VALIDATION_TASKS if arguments.validation else TASKS
    size: dict = {"tasks": tasks, "scenes": NUM_SCENES, "videos": NUM_VIDEOS}
    if arguments.quick:
        flags = ("--steps=3", "--batch_size=6", "--log_freq=1")
        size = {"tasks": tasks[:1], "scenes": 1, "videos": 2, "flags": flags}
    study = Study(arguments.output_dir.resolve(), held_out=arguments.held_out, **size)
    seeds = None if arguments.seeds is None else [int(seed) for seed in arguments.seeds.split(",")]
    if not arguments.collect:
        study.write_mixtures(LABELS)
        run_jobs(study.jobs(arms, labels, seeds), state_dir=study.output_dir / "jobs")
    if arguments.held_out:
        write_rows(collect_held_out_errors(study.output_dir), study.output_dir / "held_out.csv")
    else:
        write_rows(collect_results(study.output_dir), study.output_dir / "results.csv")
    write_rows(collect_training(study.output_dir), study.output_dir / "training.csv")


if __name__ == "__main__":
    main()
