"""Jobs that studies on Meta-World have in common: recordings, trainings and evaluations, by the stock commands.

A study keeps everything below one folder: `data/<name>`, `train/<name>` and `eval/<name>`.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from lerobot_lara.evaluation.study.checkpoints import continue_training
from lerobot_lara.evaluation.study.jobs import Job
from lerobot_lara.evaluation.study.result_files import reading_result
from lerobot_lara.files.atomic import write_text
from lerobot_lara.files.reading import shown
from lerobot_lara.files.yaml_file import read_yaml

ZERO = "zero"


@dataclass(frozen=True)
class MetaworldJobs:
    """Builds the jobs of one study.

    Args:
        output_dir: Folder of the study.
        namespace: First part of the recorded datasets' repo ids.
        tasks: Meta-World tasks; one policy learns all of them.
        image_size: Side of all images, in pixels.
        num_episodes: Evaluation episodes per task and policy.
        episode_length: Steps after which an evaluation episode counts as failed.
        eval_seed: Seed of the first evaluation episode; the others follow. All policies meet the same episodes.
        training_flags: Flags at the end of every `lerobot-train` command, where they override earlier ones.
    """

    output_dir: Path
    namespace: str
    tasks: tuple[str, ...]
    image_size: int
    num_episodes: int
    episode_length: int
    eval_seed: int
    training_flags: tuple[str, ...] = ()

    def data(self, name: str) -> Path:
        """Folder of a recording, or path of a mixture file."""
        return self.output_dir / "data" / name

    def checkpoint(self, name: str) -> Path:
        """Last checkpoint of a training."""
        return checkpoint(self.output_dir, name)

    def recording(self, name: str, title: str, *, episodes: int, seed: int, action_free: bool = False) -> Job:
        """Records scripted demonstrations of all tasks into `data/<name>`.

        Args:
            name: Name of the dataset.
            title: Title of the job.
            episodes: Episodes per task.
            seed: Seed of the recording.
            action_free: Leaves the actions out.
        """
        folder = self.data(name)
        command = (
            *("lara", "collect-demos", "--tasks", ",".join(self.tasks), "--episodes", str(episodes)),
            *("--image-size", str(self.image_size), "--seed", str(seed), "--root", str(folder)),
            *("--repo-id", f"{self.namespace}/{name}", "--workers", "1", "--resume"),
            *(("--action-free",) if action_free else ()),
        )
        product = folder / "meta" / "info.json"
        # The command continues what it has begun, and leaves what is complete as it is.
        return Job(
            f"collect_{name}", title, command, folder, product, progress="Recording", resume=lambda: command
        )

    def training(
        self,
        name: str,
        title: str,
        *,
        config: Path,
        data: str,
        needs: Sequence[str],
        flags: Sequence[str] = (),
    ) -> Job:
        """Trains into `train/<name>`; continued from the newest whole checkpoint.

        Args:
            name: Name of the training.
            title: Title of the job.
            config: Configuration of the run.
            data: Name of a recording, or of a mixture file (`.yaml`) in the study's `data/`.
            needs: Names of the jobs whose output is read.
            flags: Flags that override the configuration.
        """
        path, folder = self.data(data), self.output_dir / "train" / name
        is_mixture = path.suffix == ".yaml"
        # A mixture stands in for the dataset's name, and the configuration may name a folder.
        place = (
            (f"--dataset.repo_id={path}", "--dataset.root=null")
            if is_mixture
            else (f"--dataset.root={path}",)
        )
        command = (
            *("lerobot-train", f"--config_path={config}", *place, f"--output_dir={folder}"),
            *flags,
            *self.training_flags,
        )
        return Job(
            f"train_{name}",
            title,
            command,
            folder,
            self.checkpoint(name) / "model.safetensors",
            needs=tuple(needs),
            inputs=(config, path) if is_mixture else (config,),
            progress="Training",
            resume=functools.partial(continue_training, folder),
        )

    def evaluation(
        self, name: str, title: str, *, config: Path, training: str | None = None, flags: Sequence[str] = ()
    ) -> Job:
        """Evaluates the policy of a training into `eval/<name>`.

        Args:
            name: Name of the evaluation.
            title: Title of the job.
            config: Configuration of the training.
            training: Name of the training; None is `name`.
            flags: Further flags of `lerobot-eval`.
        """
        training = training or name
        # Images between two action chunks are never looked at and need not be rendered.
        chunk = _action_steps(config)
        program = ("lerobot-eval", f"--policy.path={self.checkpoint(training)}", *flags)
        return self._evaluation(name, title, program, render_interval=chunk, needs=(f"train_{training}",))

    def zero_evaluation(self, title: str = "Evaluate the zero policy") -> Job:
        """Evaluates a policy that does nothing, which looks at no image."""
        program = ("python", "-m", "lerobot_lara.evaluation.study.zero_policy")
        return self._evaluation(ZERO, title, program, render_interval=self.episode_length)

    def _evaluation(
        self,
        name: str,
        title: str,
        program: Sequence[str],
        *,
        render_interval: int,
        needs: tuple[str, ...] = (),
    ) -> Job:
        folder = self.output_dir / "eval" / name
        command = (
            *program,
            *("--env.type=metaworld_fast", f"--env.task={','.join(self.tasks)}"),
            *(f"--env.image_size={self.image_size}", f"--env.episode_length={self.episode_length}"),
            *(f"--env.render_interval={render_interval}", f"--eval.n_episodes={self.num_episodes}"),
            *("--eval.batch_size=1", f"--seed={self.eval_seed}", f"--output_dir={folder}"),
        )
        return Job(
            f"eval_{name}",
            title,
            command,
            folder,
            folder / "eval_info.json",
            needs=needs,
            progress="Stepping through eval batches",
        )


def _action_steps(config: Path) -> int:
    """Actions that the policy of a training configuration executes of every chunk."""
    content = read_yaml(config)
    policy = content.get("policy") if isinstance(content, dict) else None
    steps = policy.get("n_action_steps") if isinstance(policy, dict) else None
    if type(steps) is not int or steps < 1:
        raise ValueError(
            f"{config}: `policy.n_action_steps` is {shown(steps)}; it must be a whole number of at least 1. Set it."
        )
    return steps


def checkpoint(output_dir: Path, name: str) -> Path:
    """Last checkpoint of a training in the study at `output_dir`."""
    return output_dir / "train" / name / "checkpoints" / "last" / "pretrained_model"


def write_mixture_file(content: dict, path: Path) -> Path:
    """Writes a mixture file and creates its folder if necessary.

    Args:
        content: Fields of the mixture file.
        path: YAML to write.

    Returns:
        `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, yaml.safe_dump(content, sort_keys=False))
    return path


def read_outcomes(eval_info: Path) -> dict[str, list[bool]]:
    """Reads the outcome of every episode from the `eval_info.json` of `lerobot-eval`.

    Returns:
        Success of the episodes of each task, in the order of evaluation.

    Raises:
        ValueError: The file is missing, torn or odd.
    """
    with reading_result(eval_info) as content:
        outcomes = {
            str(task["task_group"]): [bool(success) for success in task["metrics"]["successes"]]
            for task in content["per_task"]
        }
        if not outcomes or not all(outcomes.values()):
            raise ValueError("no episodes")
    return outcomes
