"""Records demonstrations of Meta-World's scripted experts into a LeRobotDataset v3.

Every episode is first staged as one file next to the dataset, then written into the dataset in a fixed order.
A killed run therefore loses at most the episodes in progress, and the contents depend on the settings alone:
not on interruptions, nor on the number of workers.
"""

import functools
import json
import logging
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lerobot.utils.import_utils import require_package
from tqdm import tqdm

from lerobot_lara.envs.configuration_metaworld_fast import (
    MetaworldFastEnvConfig,
    resolve_tasks,
    task_descriptions,
)

if TYPE_CHECKING:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    from lerobot_lara.envs.metaworld_fast import MetaworldFastEnv

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CollectionSettings:
    """What determines the contents of a collected dataset.

    Attributes:
        tasks: Meta-World task names, in the order in which episodes take turns.
        episodes: number of episodes per task.
        seed: datasets of different seeds share no starting position and no noise.
        image_size: height and width in pixels.
        storage: "image" (PNG inside parquet: fast random access) or "video" (mp4: smaller).
        action_free: leave out `action` and `observation.state`, as in video of unknown origin.
        steps_after_success: further steps recorded once the task is solved, so that the goal itself is seen.
    """

    tasks: tuple[str, ...]
    episodes: int
    seed: int
    image_size: int
    storage: str
    action_free: bool
    steps_after_success: int

    def __post_init__(self) -> None:
        for name, least in (("episodes", 1), ("seed", 0), ("image_size", 1), ("steps_after_success", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.storage not in ("image", "video"):
            raise ValueError(f"storage must be 'image' or 'video', got {self.storage!r}")


def collect_demos(
    *,
    tasks: str,
    episodes: int,
    repo_id: str,
    root: str | Path | None = None,
    image_size: int = 128,
    seed: int = 0,
    storage: str = "image",
    action_free: bool = False,
    steps_after_success: int = 10,
    workers: int = 1,
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Records successful demonstrations through the environment `metaworld_fast`.

    The expert's clean action, clipped to [-1, 1], is the label; what is executed carries correlated noise on
    x, y, z, so that the data covers states off the expert's path together with the way back. Attempts that do
    not solve the task are drawn again with another seed, counted and logged.

    Features: `observation.image`, (image_size, image_size, 3) uint8 RGB; `observation.state`, (4,) hand
    x, y, z in meters and gripper opening; `action`, (4,) in [-1, 1]; 80 frames per second; the task string is
    Meta-World's description. Episodes take turns over the tasks: the first `n * len(tasks)` episodes are the
    first n of each task. `meta/collection.json` holds the settings and, per episode, the task name, simulator
    seed, noise and failed attempts.

    Args:
        tasks: Meta-World tasks or LeRobot's difficulty groups, separated by commas.
        episodes: number of episodes per task.
        repo_id: name of the dataset, "user/name".
        root: directory to create; None means LeRobot's home directory / `repo_id`.
        workers: number of processes that simulate, each with one thread.
        resume: continue an interrupted run; nothing happens when it had been completed.
        overwrite: replace the dataset at `root`, once the new one is complete, and start over.
        image_size, seed, storage, action_free, steps_after_success: see `CollectionSettings`.

    Returns:
        The dataset's root.

    Raises:
        ValueError: bad settings; `root` or an interrupted run exists and neither `resume` nor `overwrite` is
            given; what is resumed was started with other settings.
        RuntimeError: the expert does not solve a task at all.
    """
    task_names = tuple(name for group in resolve_tasks(tasks).values() for name in group)
    settings = CollectionSettings(
        task_names, episodes, seed, image_size, storage, action_free, steps_after_success
    )
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    require_package("metaworld", extra="metaworld")
    root = _dataset_root(root, repo_id)
    staging = root.with_name(f"{root.name}.partial")
    if _is_complete(root, staging, settings=settings, resume=resume, overwrite=overwrite):
        logger.info("%s is complete already", root)
        return root

    (staging / "episodes").mkdir(parents=True, exist_ok=True)
    _write_json(staging / "settings.json", asdict(settings))
    shutil.rmtree(staging / "dataset", ignore_errors=True)  # left half written by an interrupted run
    dataset = _create_dataset(repo_id, staging / "dataset", settings)
    order = [(task, episode) for episode in range(episodes) for task in task_names]
    paths = [staging / "episodes" / f"{task}_{episode:06d}.npz" for task, episode in order]
    record = functools.partial(_stage_episode, settings)
    records = []
    with (
        _quiet_datasets(),
        _mapper(workers) as run,
        tqdm(total=len(order), unit="episode", desc="Recording") as progress,
    ):
        for (task, episode), path in zip(order, run(record, order, paths), strict=True):
            records.append(_add_episode(dataset, path, task=task, episode=episode))
            failures = sum(entry["failed_attempts"] for entry in records)
            progress.set_postfix(frames=dataset.meta.total_frames, failed_attempts=failures)
            progress.update()
    dataset.finalize()
    _write_json(
        staging / "dataset" / "meta" / "collection.json", {"settings": asdict(settings), "episodes": records}
    )
    _log_failures(records, task_names)
    if root.exists():
        shutil.rmtree(root)
    (staging / "dataset").rename(root)
    shutil.rmtree(staging)
    return root


@functools.lru_cache(maxsize=16)
def _environment(task: str, image_size: int) -> "MetaworldFastEnv":
    """Keeps a process's environments between episodes: starting one takes about a second."""
    from lerobot_lara.envs.metaworld_fast import MetaworldFastEnv

    return MetaworldFastEnv(task, image_size=image_size)


def _stage_episode(settings: CollectionSettings, task_and_episode: tuple[str, int], path: Path) -> Path:
    """Records one episode into `path`, unless an earlier run has done so."""
    task, episode = task_and_episode
    if not path.exists():
        from lerobot_lara.envs.scripted_expert import record_demonstration

        recorded = record_demonstration(
            _environment(task, settings.image_size),
            seed=settings.seed,
            episode=episode,
            steps_after_success=settings.steps_after_success,
        )
        unfinished = path.with_suffix(".tmp")
        with unfinished.open("wb") as file:
            np.savez(file, **recorded)
        unfinished.replace(path)
    return path


@contextmanager
def _mapper(workers: int) -> Iterator[Any]:
    """Yields a `map` that runs in this process for one worker, else in `workers` processes, in order."""
    if workers == 1:
        try:
            yield map
        finally:
            _environment.cache_clear()
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "lerobot_lara.envs.metaworld_fast"])
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_use_one_thread) as pool:
        yield pool.map


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    """Hides the progress bar that saving an episode shows, which would break up our own."""
    import datasets

    hidden = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not hidden:
            datasets.enable_progress_bars()


def _use_one_thread() -> None:
    os.environ["LP_NUM_THREADS"] = "1"  # Mesa's software rasteriser, read when its first context is created


def _create_dataset(repo_id: str, root: Path, settings: CollectionSettings) -> "LeRobotDataset":
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    size = settings.image_size
    features: dict[str, dict[str, Any]] = {
        "observation.image": {
            "dtype": settings.storage,
            "shape": (size, size, 3),
            "names": ["height", "width", "channels"],
        }
    }
    if not settings.action_free:
        features["observation.state"] = {
            "dtype": "float32",
            "shape": (4,),
            "names": ["x", "y", "z", "gripper"],
        }
        features["action"] = {"dtype": "float32", "shape": (4,), "names": ["dx", "dy", "dz", "gripper"]}
    return LeRobotDataset.create(
        repo_id,
        fps=MetaworldFastEnvConfig.fps,
        features=features,
        root=root,
        robot_type="sawyer",
        use_videos=settings.storage == "video",
    )


def _add_episode(dataset: "LeRobotDataset", path: Path, *, task: str, episode: int) -> dict[str, Any]:
    """Writes a staged episode and returns its record for `collection.json`."""
    with np.load(path) as recorded:
        columns = {"observation.image": recorded["images"]}
        if "action" in dataset.meta.features:
            columns |= {"observation.state": recorded["states"], "action": recorded["actions"]}
        record = {
            "task": task,
            "episode": episode,
            "simulator_seed": int(recorded["simulator_seed"]),
            "noise_std": float(recorded["noise_std"]),
            "failed_attempts": int(recorded["failed_attempts"]),
        }
    description = task_descriptions()[task]
    for values in zip(*columns.values(), strict=True):
        dataset.add_frame({**dict(zip(columns, values, strict=True)), "task": description})
    dataset.save_episode()
    return record


def _dataset_root(root: str | Path | None, repo_id: str) -> Path:
    if root is not None:
        return Path(root).expanduser().resolve()
    from lerobot.utils.constants import HF_LEROBOT_HOME

    return HF_LEROBOT_HOME / repo_id


def _is_complete(
    root: Path, staging: Path, *, settings: CollectionSettings, resume: bool, overwrite: bool
) -> bool:
    """Checks what is on disk against what is asked for; True if there is nothing left to do."""
    if resume and overwrite:
        raise ValueError("resume and overwrite exclude each other: give one of them")
    finished = root / "meta" / "collection.json"
    if overwrite:
        if root.exists() and not (root / "meta" / "info.json").exists():
            raise ValueError(f"root: {root} is not a dataset and will not be deleted; choose another root")
        if staging.exists() and not (staging / "settings.json").exists():
            raise ValueError(
                f"root: {staging} is no interrupted run and will not be deleted; choose another root"
            )
        shutil.rmtree(staging, ignore_errors=True)
        return False
    if not resume:
        if root.exists():
            raise ValueError(f"root: {root} exists already; choose another root, or give --overwrite")
        if staging.exists():
            raise ValueError(
                f"root: an interrupted run is in {staging}; give --resume to continue it or --overwrite"
            )
        return False
    if root.exists():
        if not finished.exists():
            raise ValueError(f"root: {root} was not written by collect-demos, so it cannot be resumed")
        _check_same_settings(json.loads(finished.read_text())["settings"], settings, root)
        return True
    if (staging / "settings.json").exists():
        _check_same_settings(json.loads((staging / "settings.json").read_text()), settings, staging)
    return False


def _check_same_settings(found: dict[str, Any], asked: CollectionSettings, where: Path) -> None:
    differing = [
        f"{name} is {found.get(name)!r} there, {value!r} now"
        for name, value in json.loads(json.dumps(asdict(asked))).items()
        if found.get(name) != value
    ]
    if differing:
        raise ValueError(
            f"resume: {where} was started with other settings ({'; '.join(differing)}); "
            "use the same ones, another root, or --overwrite"
        )


def _log_failures(records: list[dict[str, Any]], tasks: tuple[str, ...]) -> None:
    for task in tasks:
        attempts = [1 + record["failed_attempts"] for record in records if record["task"] == task]
        logger.info("%s: %d episodes kept of %d attempts", task, len(attempts), sum(attempts))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """Replaces the file in one step, so that a killed run cannot leave half of it."""
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(content, indent=2) + "\n")
    unfinished.replace(path)
