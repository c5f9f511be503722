"""The commands that `support.kills` kills, on inputs that take a second or two.

`python -m support.kill_commands FOLDER NAME=MOMENTS[+TIMED] ...` writes a JSON line for each moment.
"""

import functools
import importlib
import json
import shutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from support.kills import Command, file_contents, forked, run_series


def import_video(kind: str, shared: Path) -> Command:
    """An import of a new dataset ("new"), into one with two clips ("add"), or in the place of that ("overwrite")."""
    from support.videos import write_clip

    from lerobot_lara.data.video import assemble, import_video  # noqa: F401 - load LeRobot
    from lerobot_lara.data.video.dataset import MANIFEST_PATH

    options: dict[str, Any] = {"new": {}, "add": {"resume": True}, "overwrite": {"overwrite": True}}[kind]

    def run(place: Path, **options: Any) -> list[str]:
        decoded: list[str] = []
        read = import_video.read_frames

        def recorded(path: Path, **options: Any) -> Any:
            decoded.append(path.name)
            return read(path, **options)

        import_video.read_frames = recorded  # in a fork
        import_video.import_video(
            place / "clips",
            "local/clips",
            root=place / "dataset",
            storage="image" if kind == "add" else "video",
            fps=10,
            **options,
        )
        return decoded

    def prepare(place: Path) -> None:
        write_clip(place / "clips" / "a.mp4", num_frames=4)
        write_clip(place / "clips" / "c.mp4", num_frames=5)
        if kind != "new":
            run(place)
        write_clip(place / "clips" / "b.mp4", num_frames=6)
        write_clip(place / "clips" / "d.mp4", num_frames=3)

    def again(place: Path) -> list[str]:
        # An overwrite that has not begun, or has ended, would be taken for an addition.
        begun = (place / "dataset.partial" / MANIFEST_PATH).exists()
        return run(place, **({"resume": True} if begun or not options else options))

    def finished(place: Path) -> list[str]:
        records = (place / "dataset.partial").glob("clips/*/meta/clip.json")
        return [json.loads(path.read_bytes())["name"] for path in records if path.parents[1].name.isdecimal()]

    return Command(
        f"import-video ({kind})",
        prepare,
        functools.partial(run, **options),
        again,
        lambda place: file_contents(place / "dataset"),
        finished,
    )


def upgrade_dataset(shared: Path) -> Command:
    """An upgrade of a dataset of format v2.0 without statistics."""
    from data.test_upgrade_dataset import make_legacy

    from lerobot_lara.data.upgrade import legacy_conversion
    from lerobot_lara.data.upgrade.upgrade_dataset import upgrade_dataset

    def run(place: Path) -> list[str]:
        stages: list[str] = []
        write = legacy_conversion.write_json

        def recorded(path: Path, content: Any) -> None:
            stages.extend([path.name] if path.name.endswith(".done.json") else [])
            write(path, content)

        legacy_conversion.write_json = recorded  # in a fork
        upgrade_dataset(source, place / "upgraded", verify="none")
        return stages

    source = shared / "source"
    forked(lambda: make_legacy(source, "v2.0", storage="image") and None)
    return Command(
        "upgrade-dataset",
        lambda place: place.mkdir(),
        run,
        run,
        lambda place: file_contents(place / "upgraded"),
        lambda place: [path.name for path in (place / "upgraded.partial").glob("*.done.json")],
    )


def collect_demos(kind: str, shared: Path) -> Command:
    """A recording of a new dataset ("new"), or in the place of another ("overwrite"); no simulator is needed."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset  # noqa: F401 - load LeRobot

    from lerobot_lara.data import collect_demos as collector
    from lerobot_lara.envs import demonstration_sources
    from lerobot_lara.envs.demonstrations import Demonstration

    def run(place: Path, *, seed: int = 0, **options: Any) -> list[str]:
        recorded: list[str] = []

        def record(
            source: object, env: str, *, task: str, seed: int, episode: int, **options: object
        ) -> Demonstration:
            recorded.append(f"{task}_{episode:06d}.npz")
            generator = np.random.default_rng([seed, len(task), episode])
            images = generator.integers(256, size=(4, 16, 16, 3), dtype=np.uint8)
            vectors = generator.normal(size=(2, 4, 4)).astype(np.float32)
            return Demonstration({"observation.image": images}, *vectors, seed, 0.0, 0)

        demonstration_sources.DemonstrationSource.record = record
        collector._environment = lambda env, task, size: task
        demonstration_sources.require_package = lambda *args, **kwargs: None
        collector.collect_demos(
            tasks="reach-v3,door-close-v3",
            episodes=2,
            repo_id="local/demos",
            root=place / "demos",
            image_size=16,
            seed=seed,
            **options,
        )
        return recorded

    def again(place: Path) -> list[str]:
        # One that has not begun, or has ended, would be refused or taken for done.
        begun = (place / "demos.partial" / "settings.json").exists()
        return run(place, **({"resume": True} if begun or not options else options))

    options: dict[str, Any] = {} if kind == "new" else {"overwrite": True}
    return Command(
        f"collect-demos ({kind})",
        lambda place: place.mkdir() if kind == "new" else place.mkdir() or run(place, seed=1),
        functools.partial(run, **options),
        again,
        lambda place: file_contents(place / "demos"),
        lambda place: [path.name for path in (place / "demos.partial" / "episodes").glob("*.npz")],
    )


def probe(kind: str, shared: Path) -> Command:
    """A report on a new folder ("new"), or in the place of an earlier one of two models ("again")."""
    from evaluation.probe.test_command import save_lam
    from support.tiny_datasets import make_tiny_dataset

    from lerobot_lara.evaluation.probe import run as module

    def build() -> None:
        save_lam(shared / "lam")
        save_lam(shared / "other")
        make_tiny_dataset(shared / "video", num_episodes=4, action=False, state=False)

    def run(place: Path, *lams: str) -> list[str]:
        paths = [str(shared / name) for name in lams or ("lam",)]
        module.probe(paths, dataset=str(shared / "video"), out=place / "report", max_pairs=16, device="cpu")
        return []

    def prepare(place: Path) -> None:
        place.mkdir()
        if kind == "again":
            shutil.copytree(shared / "report", place / "report")

    forked(build)
    if kind == "again":
        forked(lambda: run(shared, "lam", "other"))
    return Command(f"probe ({kind})", prepare, run, run, lambda place: file_contents(place / "report"))


# A training as far as a study sees it: a checkpoint for every step, written file by file, then the link `last`.
_TRAINING = """
    import json, os, sys
    from pathlib import Path
    import numpy as np
    from safetensors.numpy import load_file, save_file
    from support.kills import watch_as_child
    watch_as_child()
    place, resumed = Path(sys.argv[1]), len(sys.argv) > 2
    run, step, weight = place / "train", 0, np.zeros(3)
    if resumed:
        checkpoint = Path(sys.argv[2]).parents[1]
        step = int(checkpoint.name)
        weight = load_file(checkpoint / "pretrained_model" / "model.safetensors")["weight"]
    for step in range(step + 1, 5):
        weight = weight * 0.5 + step
        with open(place / "steps", "a") as file:
            file.write(f"{step}\\n")
        checkpoint = run / "checkpoints" / f"{step:06d}"
        for folder in ("pretrained_model", "training_state"):
            (checkpoint / folder).mkdir(parents=True, exist_ok=True)
        for name in ("model", "optimizer_state", "rng_state"):
            folder = "pretrained_model" if name == "model" else "training_state"
            save_file({"weight": weight}, checkpoint / folder / f"{name}.safetensors")
        for name in ("pretrained_model/config", "pretrained_model/train_config", "training_state/training_step",
                     "training_state/optimizer_param_groups", "training_state/scheduler_state"):
            (checkpoint / f"{name}.json").write_text(json.dumps({"step": step, "scheduler": {}}))
        last = run / "checkpoints" / "last"
        if last.is_symlink():
            last.unlink()
        last.symlink_to(checkpoint.name)
"""
_JOB = """
    import sys
    from pathlib import Path
    from support.kills import watch_as_child
    watch_as_child()
    folder = Path(sys.argv[1])
    folder.mkdir()
    (folder / "half").write_text("half")
    (folder / "product").write_text("whole")
"""


def study(shared: Path) -> Command:
    """Jobs of which one is a training; they are killed as well, at their own write operations."""
    from lerobot_lara.evaluation.study import jobs as module
    from lerobot_lara.evaluation.study.checkpoints import continue_training
    from lerobot_lara.evaluation.study.jobs import Job, run_jobs

    def run(place: Path) -> list[str]:
        module.POLL_INTERVAL_S = 0.02
        training = ("python", "-c", textwrap.dedent(_TRAINING), str(place))

        def resume() -> tuple[str, ...] | None:
            command = continue_training(place / "train")
            return command and (*training, command[1].removeprefix("--config_path="))

        def job(name: str, *needs: str) -> Job:
            command = ("python", "-c", textwrap.dedent(_JOB), str(place / name))
            return Job(name, name, command, place / name, place / name / "product", needs=needs)

        product = place / "train" / "checkpoints" / "last" / "pretrained_model" / "model.safetensors"
        jobs = [
            job("record"),
            Job("train", "train", training, place / "train", product, needs=("record",), resume=resume),
            job("evaluate", "train"),
        ]
        (place / "steps").unlink(missing_ok=True)
        before = _done(place)
        run_jobs(jobs, state_dir=place / "jobs", num_parallel=1)
        steps = (place / "steps").read_text().split() if (place / "steps").exists() else []
        (place / "steps").unlink(missing_ok=True)
        return [name for name in _done(place) if name not in before] + [f"step {step}" for step in steps]

    def finished(place: Path) -> list[str]:
        last = place / "train" / "checkpoints" / "last"
        steps = range(1, int(last.resolve().name) + 1) if last.exists() else ()
        return _done(place) + [f"step {step}" for step in steps]

    def contents(place: Path) -> dict[str, str]:
        records = tuple(f"{name}.json" for name in ("record", "train", "evaluate"))
        found = file_contents(place, leave_out=(*records, "record.log", "train.log", "evaluate.log"))
        last = (place / "train" / "checkpoints" / "last").resolve()
        return found | {"last": last.name, "done": " ".join(sorted(_done(place)))}

    return Command("study", lambda place: place.mkdir(), run, run, contents, finished)


def _done(place: Path) -> list[str]:
    """The jobs of a study that are recorded as done."""
    records = (place / "jobs").glob("*.json")
    return [path.stem for path in records if json.loads(path.read_bytes())["status"] == "done"]


def demo(kind: str, shared: Path) -> Command:
    """The demo with all its jobs, which copy what they would make: "new", or in the place of another ("overwrite")."""
    from evaluation.conftest import make_results, write_study

    from lerobot_lara.evaluation import demo as module
    from lerobot_lara.evaluation.study import jobs as jobs_module

    made = shared / "made"

    def build() -> None:
        write_study(made, make_results(dit=(4, 5), lara=(6, 7)))
        for name in ("lara_lam", "lara_dit", "lara", "lara_labels", "lara_mixture"):
            folder = made / "train" / name / "checkpoints" / "last" / "pretrained_model"
            folder.mkdir(parents=True)
            policy = {"type": name, "optimizer_lr": 1e-4}
            config = {"steps": 5, "batch_size": 2, "seed": 1000, "policy": policy}
            (folder / "train_config.json").write_text(json.dumps(config))
            (folder / "model.safetensors").touch()
        for name in ("videos", "demos"):
            (made / "data" / name / "meta").mkdir(parents=True)
            (made / "data" / name / "meta" / "info.json").touch()
        (made / "labels" / "demos" / "meta").mkdir(parents=True)
        (made / "labels" / "demos" / "meta" / "latent_labels.json").touch()

    copy = "import shutil, sys; shutil.copytree(*sys.argv[1:3]); print(open(sys.argv[3]).read())"
    build_jobs, collect = module.build_jobs, module.collect_results

    def build_copies(*args: Any, **kwargs: Any) -> list[Any]:
        copies = []
        for job in build_jobs(*args, **kwargs):
            part = job.output.relative_to(args[1])
            log = made / "jobs" / f"{job.name}.log"
            command = (
                "python",
                "-c",
                copy,
                str(made / part),
                str(job.output),
                str(log if log.exists() else "/dev/null"),
            )
            copies.append(
                jobs_module.Job(job.name, job.title, command, job.output, job.product, job.needs, job.inputs)
            )
        return copies

    def run(place: Path, **options: Any) -> list[str]:
        jobs_module.POLL_INTERVAL_S = 0.02
        module.build_jobs = build_copies
        # Times and paths differ between runs.
        module.collect_results = lambda *args: (
            collect(*args)
            | {
                "wall_times": {"train_lara_lam": 1.0, "total": 2.0},
                "commands": {},
            }
        )
        before = _done(place / "demo")
        module.run_demo(place / "demo", **options)
        return [name for name in _done(place / "demo") if name not in before]

    def prepare(place: Path) -> None:
        place.mkdir()
        if kind == "overwrite":
            shutil.copytree(shared / "demo", place / "demo")

    def again(place: Path) -> list[str]:
        marker = place / "demo" / module.MARKER
        deleting = marker.is_file() and "deleted" in marker.read_text()
        old = (place / "demo" / "of_old").exists()
        begun = kind == "new" or (deleting or not old)
        finished = (place / "demo" / "results.json").exists() and not deleting
        return run(place, **({"resume": finished} if begun else {"overwrite": True}))

    def finished(place: Path) -> list[str]:
        return [] if (place / "demo" / "of_old").exists() or kind == "overwrite" else _done(place / "demo")

    def contents(place: Path) -> dict[str, str]:
        found = file_contents(place / "demo", leave_out=("mixture.yaml",))
        return {name: digest for name, digest in found.items() if not name.startswith("jobs/")}

    forked(build)
    if kind == "overwrite":
        forked(lambda: run(shared))
        (shared / "demo" / "of_old").touch()
    start = run if kind == "new" else functools.partial(run, overwrite=True)
    return Command(f"demo ({kind})", prepare, start, again, contents, finished)


def train(shared: Path) -> Command:
    """`lerobot-train` of a small latent action model, continued as a study does."""
    from data.mixture.test_resumed_order import LAM
    from lerobot.scripts import lerobot_train
    from support.helpers import run_train
    from support.tiny_datasets import make_tiny_dataset

    from lerobot_lara.evaluation.study.checkpoints import continue_training, is_whole

    root = shared / "video"
    forked(lambda: make_tiny_dataset(root, num_episodes=2, num_frames=10, action=False, state=False) and None)

    def run(place: Path) -> list[str]:
        steps: list[int] = []
        update = lerobot_train.update_policy
        command = continue_training(place / "run")
        first = 1 if command is None else int(Path(command[1]).parents[1].name) + 1

        def counted(*args: Any, **kwargs: Any) -> Any:
            steps.append(first + len(steps))
            return update(*args, **kwargs)

        lerobot_train.update_policy = counted
        if command is None:
            shutil.rmtree(place / "run", ignore_errors=True)
            flags = {"output_dir": place / "run", "steps": 6, "save_freq": 1, "batch_size": 8}
            run_train(**LAM, dataset__root=root, **flags)
        else:
            run_train(config_path=command[1].split("=")[1], resume=True, output_dir=None)
        return [f"step {step}" for step in steps]

    def finished(place: Path) -> list[str]:
        whole = [int(path.name) for path in (place / "run" / "checkpoints").glob("0*") if is_whole(path)]
        return [f"step {step}" for step in range(1, max(whole, default=0) + 1)]

    def contents(place: Path) -> dict[str, str]:
        # The configuration says how a training was started, and metadata of safetensors has no order.
        from safetensors.numpy import load_file

        last = place / "run" / "checkpoints" / "last"
        files = sorted(last.rglob("*.safetensors"))
        values = {path.name: load_file(path) for path in files}
        return {
            f"{name} {key}": f"{array.dtype}{array.tobytes()!r}"
            for name, arrays in values.items()
            for key, array in arrays.items()
        } | {"last": last.resolve().name}

    return Command("lerobot-train", lambda place: place.mkdir(), run, run, contents, finished)


def label(kind: str, shared: Path) -> Command:
    """Labels of a new folder ("new"), or in the place of others ("overwrite"); "codes" fits a codebook at the end."""
    from support.tiny_datasets import make_tiny_dataset

    from lerobot_lara.labeling import run as module
    from lerobot_lara.labeling import shards
    from lerobot_lara.labeling.plan import LabelOptions

    def build() -> None:
        from labeling.test_label import save_lam

        save_lam(shared / "lam")
        make_tiny_dataset(shared / "video", num_episodes=4, num_frames=10, action=False, state=False)

    def run(place: Path, *, seed: int = 0, **options: Any) -> list[str]:
        written: list[str] = []
        write = shards.write_shard

        def recorded(file: Path, *args: Any) -> None:
            written.append(file.name)
            write(file, *args)

        shards.write_shard = recorded  # in a fork
        module.label(
            str(shared / "lam"),
            str(shared / "video"),
            place / "labels",
            options=LabelOptions(
                shard_frames=10, seed=seed, codebook_size=2 if kind == "codes" else None, device="cpu"
            ),
            **options,
        )
        return written

    def prepare(place: Path) -> None:
        place.mkdir()
        if kind == "overwrite":
            run(place, seed=1)

    def again(place: Path) -> list[str]:
        # One that has not begun is refused without the flag.
        begun = kind != "overwrite" or (place / "labels" / "plan.json").exists()
        return run(place) if begun else run(place, overwrite=True)

    def finished(place: Path) -> list[str]:
        if kind == "overwrite":
            return []
        return [path.name for path in (place / "labels" / "data").rglob("*.parquet")]

    forked(build)
    start = functools.partial(run, overwrite=True) if kind == "overwrite" else run
    return Command(
        f"label ({kind})", prepare, start, again, lambda place: file_contents(place / "labels"), finished
    )


COMMANDS: dict[str, Callable[[Path], Command]] = {
    "import_new": functools.partial(import_video, "new"),
    "import_add": functools.partial(import_video, "add"),
    "import_overwrite": functools.partial(import_video, "overwrite"),
    "upgrade": upgrade_dataset,
    "collect_new": functools.partial(collect_demos, "new"),
    "collect_overwrite": functools.partial(collect_demos, "overwrite"),
    "probe_new": functools.partial(probe, "new"),
    "probe_again": functools.partial(probe, "again"),
    "label_new": functools.partial(label, "new"),
    "label_codes": functools.partial(label, "codes"),
    "label_overwrite": functools.partial(label, "overwrite"),
    "study": study,
    "demo_new": functools.partial(demo, "new"),
    "demo_overwrite": functools.partial(demo, "overwrite"),
    "train": train,
}


def main(folder: Path, requests: list[str]) -> None:
    """Runs the series that are asked for, each as `name=moments+timed`."""
    for request in requests:
        name, _, numbers = request.partition("=")
        moments, _, timed = numbers.partition("+")
        shared = folder / f"{name}_shared"
        shared.mkdir(parents=True)
        command = COMMANDS[name](shared)
        place = folder / name
        place.mkdir()
        for found in run_series(command, place, moments=int(moments or 0), timed=int(timed or 0)):
            sys.stdout.write(json.dumps(found) + "\n")
            sys.stdout.flush()
            shutil.rmtree(place / f"moment_{found['moment']}")


if __name__ == "__main__":
    importlib.import_module("lerobot_lara")
    main(Path(sys.argv[1]), sys.argv[2:])
