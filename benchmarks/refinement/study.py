"""Runs the cells of the refinement study; see README.md in this folder."""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from arms import (
    ACTION_STEPS,
    CODEBOOK_SIZE,
    CONSUMERS,
    EPISODE_LENGTH,
    FIRST_SCENE,
    IDS,
    IMAGE_SIZE,
    NO_MOTION,
    NONE,
    NUM_HELD_OUT,
    NUM_LABELED,
    NUM_SCENES,
    NUM_VIDEOS,
    OF_OTHERS,
    REFINING_STEPS,
    SEEDS,
    SHUFFLED,
    TASKS,
    TOKENIZERS,
    VANILLA,
    VIDEO_STEPS,
)

from lerobot_lara.data.latent_labels.manifest import MANIFEST
from lerobot_lara.evaluation.study.jobs import Job, run_jobs
from lerobot_lara.evaluation.study.metaworld_jobs import MetaworldJobs

HERE = Path(__file__).parent
CONFIGS = HERE.parents[1] / "configs" / "demo"
PARTS = ("videos", "demos")
PROBED_PAIRS = 1000


class Study:
    """Lists the jobs of the chosen seeds.

    Args:
        output_dir: Folder of the study.
        quick: One task, a few steps and scenes: shows that everything runs.
    """

    def __init__(self, output_dir: Path, *, quick: bool = False) -> None:
        self.output_dir = output_dir
        self._quick = quick
        self._num_labeled = 4 if quick else NUM_LABELED
        self._tasks = TASKS[:1] if quick else TASKS
        self._build = MetaworldJobs(
            output_dir,
            namespace="refinement",
            tasks=self._tasks,
            image_size=IMAGE_SIZE,
            num_episodes=2 if quick else NUM_SCENES,
            episode_length=40 if quick else EPISODE_LENGTH,
            eval_seed=FIRST_SCENE,
            training_flags=("--steps=3", "--batch_size=6", "--log_freq=1") if quick else (),
        )

    def jobs(self, seeds: Sequence[int]) -> list[Job]:
        """Lists all jobs, each after those that it needs."""
        episodes = self._num_labeled + (2 if self._quick else NUM_HELD_OUT)
        jobs = [
            self._build.recording(
                "videos", "Record videos", episodes=3 if self._quick else NUM_VIDEOS, seed=1, action_free=True
            ),
            self._build.recording("demos", "Record demos", episodes=episodes, seed=0),
        ]
        for seed in seeds:
            jobs += self._tokenizers(seed)
            for ids in IDS:
                jobs += [
                    *self._labels(ids, seed),
                    *self._pretrainings(ids, seed),
                    self._measurement(ids, seed),
                ]
            for consumer in CONSUMERS:
                jobs += self._consumer(consumer, seed)
            jobs.append(self._probe(seed))
        return [*jobs, self._build.zero_evaluation()]

    @property
    def _first_held_out(self) -> int:
        # The tasks take turns in the recording, so that the first n of each are at its beginning.
        return self._num_labeled * len(self._tasks)

    @property
    def _labeled(self) -> str:
        return f"--dataset.episodes={list(range(self._first_held_out))}"

    def _lam(self, ids: str, seed: int) -> Path:
        """The latent action model of the codes."""
        name = ids.removesuffix(OF_OTHERS)
        return self._build.checkpoint(f"{VANILLA if name == NO_MOTION else name}_{seed}")

    def _label_folder(self, ids: str, part: str, seed: int) -> Path:
        return self.output_dir / "labels" / f"{ids}_{part}_{seed}"

    def _training(
        self, name: str, config: str, data: str, needs: Sequence[str], seed: int, *flags: str
    ) -> Job:
        return self._build.training(
            name,
            f"Train {name}",
            config=CONFIGS / f"{config}.yaml",
            data=data,
            needs=needs,
            flags=(f"--seed={seed}", *flags),
        )

    def _tokenizers(self, seed: int) -> list[Job]:
        jobs = [self._training(f"{VANILLA}_{seed}", "lam", "videos", ["collect_videos"], seed)]
        needs = ["collect_demos", f"train_{VANILLA}_{seed}"]
        for name, tokenizer in TOKENIZERS.items():
            flags = (
                f"--steps={REFINING_STEPS}",
                f"--policy.lam_path={self._lam(VANILLA, seed)}",
                *tokenizer.flags,
                self._labeled,
            )
            job = self._training(f"{name}_{seed}", "lara", "demos", needs, seed, *flags)
            if tokenizer.permuted:
                program = ("python", str(HERE / "train_placebo.py"))
                job = replace(job, command=(*program, *job.command[1:]), resume=None)
            jobs.append(job)
        return jobs

    def _labels(self, ids: str, seed: int) -> list[Job]:
        """Codes of both datasets, and the same codes for other pairs."""
        jobs = []
        videos = self._label_folder(ids, "videos", seed)
        for part in PARTS:
            folder = self._label_folder(ids, part, seed)
            if ids == NO_MOTION:
                source = self._label_folder(VANILLA, part, seed)
                book = () if part == "videos" else (f"--codebook={videos}",)
                command = self._derivation(source, folder, "no_motion", *book)
                needs = [f"label_{VANILLA}_{part}_{seed}"]
            else:
                book = (f"--codebook={videos}",) if part == "demos" else (f"--codebook-size={CODEBOOK_SIZE}",)
                command = (
                    *("lara", "label", str(self._lam(ids, seed)), str(self._build.data(part))),
                    *(f"--out={folder}", "--no-motion", "--device=cpu", *book),
                )
                needs = [f"train_{ids}_{seed}", f"collect_{part}"]
            if part == "demos":
                needs.append(f"label_{ids}_videos_{seed}")
            jobs.append(self._labeling(ids, part, seed, command, needs))
            shuffled = ids + OF_OTHERS
            command = self._derivation(
                folder, self._label_folder(shuffled, part, seed), "shuffled", f"--seed={seed}"
            )
            jobs.append(self._labeling(shuffled, part, seed, command, [f"label_{ids}_{part}_{seed}"]))
        return jobs

    def _labeling(
        self, ids: str, part: str, seed: int, command: tuple[str, ...], needs: Sequence[str]
    ) -> Job:
        folder = self._label_folder(ids, part, seed)
        name = f"{ids}_{part}_{seed}"
        return Job(f"label_{name}", f"Label {name}", command, folder, folder / MANIFEST, needs=tuple(needs))

    @staticmethod
    def _derivation(source: Path, target: Path, codes: str, *flags: str) -> tuple[str, ...]:
        return (
            "python",
            str(HERE / "derive_labels.py"),
            str(source),
            str(target),
            f"--codes={codes}",
            *flags,
        )

    def _pretrainings(self, ids: str, seed: int) -> list[Job]:
        """Trainings on the videos' codes alone: on their own, and on those of others."""
        return [
            self._training(
                f"video_{name}_{seed}",
                "moto_gpt",
                "videos",
                ["collect_videos", f"label_{name}_videos_{seed}"],
                seed,
                f"--policy.lam_labels={self._label_folder(name, 'videos', seed)}",
                "--policy.predict_actions=false",
                f"--steps={VIDEO_STEPS}",
            )
            for name in (ids, ids + OF_OTHERS)
        ]

    def _measurement(self, ids: str, seed: int) -> Job:
        """What was learned from the videos, on held-out demonstrations."""
        other, folder = ids + OF_OTHERS, self.output_dir / "measured" / f"{ids}_{seed}"
        command = (
            *("python", str(HERE / "measure.py"), f"--root={self._build.data('demos')}"),
            *(f"--policy={self._build.checkpoint(f'video_{ids}_{seed}')}",),
            *(f"--labels={self._label_folder(ids, 'demos', seed)}",),
            *(f"--placebo={self._build.checkpoint(f'video_{other}_{seed}')}",),
            *(f"--placebo_labels={self._label_folder(other, 'demos', seed)}",),
            *(f"--first_episode={self._first_held_out}", f"--output_dir={folder}"),
            *(() if ids == NO_MOTION else (f"--lam={self._lam(ids, seed)}",)),
        )
        needs = [
            f"{job}_{seed}" for name in (ids, other) for job in (f"train_video_{name}", f"label_{name}_demos")
        ]
        title = f"Measure {ids}_{seed}"
        return Job(
            f"measure_{ids}_{seed}", title, command, folder, folder / "measured.json", needs=tuple(needs)
        )

    def _consumer(self, name: str, seed: int) -> list[Job]:
        """A policy on the demonstrations, and its evaluation without and with decoded codes."""
        cell, steps = f"policy_{name}_{seed}", f"--steps={ACTION_STEPS}"
        if name == NONE:
            needs, flags = ["collect_demos"], ("--policy.predict_latents=false",)
        else:
            needs = ["collect_demos", f"train_video_{name}_{seed}", f"label_{name}_demos_{seed}"]
            flags = (
                f"--policy.path={self._build.checkpoint(f'video_{name}_{seed}')}",
                "--policy.predict_actions=true",
                f"--policy.lam_labels={self._label_folder(name, 'demos', seed)}",
            )
        training = self._training(cell, "moto_gpt", "demos", needs, seed, *flags, steps, self._labeled)
        jobs = [training, self._build.evaluation(cell, f"Evaluate {cell}", config=CONFIGS / "moto_gpt.yaml")]
        if name not in (NONE, SHUFFLED):
            jobs.append(
                self._build.evaluation(
                    f"{cell}_with_latents",
                    f"Evaluate {cell} with decoded codes",
                    config=CONFIGS / "moto_gpt.yaml",
                    training=cell,
                    flags=("--policy.act_with_latents=true",),
                )
            )
        return jobs

    def _probe(self, seed: int) -> Job:
        """Verdicts on the latent action models, on all demonstrations, most of which they were refined on."""
        names = (VANILLA, *TOKENIZERS)
        folder = self.output_dir / "probe" / str(seed)
        command = (
            *("lara", "probe", *(str(self._lam(name, seed)) for name in names)),
            *(f"--dataset={self._build.data('demos')}", f"--out={folder}", "--device=cpu"),
            f"--max-pairs={64 if self._quick else PROBED_PAIRS}",
        )
        needs = tuple(f"train_{name}_{seed}" for name in names)
        title = f"Probe latent action models of seed {seed}"
        return Job(f"probe_{seed}", title, command, folder, folder / "metrics.json", needs=needs)


def main() -> None:
    """Runs the chosen seeds; an interrupted run resumes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    parser.add_argument(
        "--quick", action="store_true", help="a few steps and scenes: checks that everything runs"
    )
    arguments = parser.parse_args()
    # LeRobot's import left a handler that drops these messages.
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    study = Study(arguments.output_dir.resolve(), quick=arguments.quick)
    jobs = study.jobs([int(seed) for seed in arguments.seeds.split(",")])
    run_jobs(jobs, state_dir=study.output_dir / "jobs")


if __name__ == "__main__":
    main()
