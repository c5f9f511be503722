"""Records demonstrations of scripted experts in simulation into a LeRobotDataset v3.

Each episode is first staged as a file next to the dataset and then written into the dataset in a fixed order. A run
that is killed therefore loses at most the episodes in progress, and the contents depend only on the settings, not on
interruptions or on the number of workers.
"""

import functools
import json
import logging
import multiprocessing
import os
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lerobot.utils.constants import ACTION, OBS_STATE
from tqdm import tqdm

from lerobot_lara.data.stored_frames import find_lost_frame, find_lost_rows
from lerobot_lara.envs.demonstration_sources import SOURCES, DemonstrationSource
from lerobot_lara.files.atomic import replaced_file, write_json
from lerobot_lara.files.lock import only_run
from lerobot_lara.files.staging import (
    check_replaced,
    discard_staging,
    finish_move,
    is_foreign,
    move_into_place,
    new_folder,
    staging_folder,
)
from lerobot_lara.files.user_path import user_path

if TYPE_CHECKING:
    import gymnasium as gym
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

logger = logging.getLogger(__name__)

_ORIGIN = {"simulator_seed": int, "noise_std": float, "failed_attempts": int}
"""What `collection.json` tells about each episode, besides its task and number."""
MAX_ENVIRONMENTS = 16
_RECORD = Path("settings.json")
"""In the folder of a run that has not ended: its settings, and whether it replaces a dataset."""


@dataclass(frozen=True)
class CollectionSettings:
    """The settings that determine the contents of a collected dataset.

    Attributes:
        env: The simulator, a name of `demonstration_sources.SOURCES`.
        tasks: Task names, in the order in which their episodes take turns.
        episodes: Number of episodes per task, at least 1.
        seed: Datasets with different seeds share no starting position and no noise.
        image_size: Height and width of the images in pixels.
        storage: "image" (PNG inside Parquet, with fast random access) or "video" (MP4, which is smaller).
        action_free: Leave out `action` and `observation.state`, as in video of unknown origin.
        steps_after_success: Steps recorded after the task is solved, so that the reached goal is seen.
    """

    env: str
    tasks: tuple[str, ...]
    episodes: int
    seed: int
    image_size: tuple[int, int]
    storage: str
    action_free: bool
    steps_after_success: int

    def __post_init__(self) -> None:
        for name, least in (("episodes", 1), ("seed", 0), ("steps_after_success", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` is {getattr(self, name)}; it must be at least {least}.")
        height, width = self.image_size
        if min(height, width) < 1:
            raise ValueError(f"`image_size` is {height}x{width}; both must be at least 1.")
        if self.env == "metaworld" and height != width:
            raise ValueError(
                f"`image_size` is {height}x{width}; images of Meta-World are square. Pass one number."
            )
        if self.storage not in ("image", "video"):
            raise ValueError(f"`storage` is {self.storage!r}; it must be 'image' or 'video'.")

    @property
    def source(self) -> DemonstrationSource:
        """The simulator and its experts."""
        return SOURCES[self.env]


def collect_demos(
    *,
    tasks: str,
    episodes: int,
    repo_id: str,
    env: str = "metaworld",
    root: str | Path | None = None,
    image_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    storage: str = "image",
    action_free: bool = False,
    steps_after_success: int | None = None,
    workers: int = 1,
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Records successful demonstrations of a simulator's scripted experts.

    The expert's action is the label. The action that is executed carries noise, so that the data also shows states off
    the expert's path and the way back from them. An attempt that does not solve the task is repeated with another seed,
    counted and logged. No episode starts where `lerobot-eval` starts one.

    The features are the images of the environment's cameras, (height, width, 3) uint8 RGB; `observation.state`; and
    `action`, all as in the environment of the same name (`metaworld_fast`, `simpler`). Episodes take turns
    over the tasks: the first `n * len(tasks)` episodes are the first n of each task. `meta/collection.json` holds the
    settings and, for each episode, the task name, simulator seed, noise and number of failed attempts.

    Args:
        tasks: Tasks of the simulator, or its groups of tasks, separated by commas.
        episodes: See `CollectionSettings`.
        repo_id: Name of the dataset, "user/name".
        env: The simulator: "metaworld" or "simpler".
        root: Folder to create; None is the dataset's folder in LeRobot's home.
        image_size: Height and width in pixels, or one number for both; None is the simulator's default.
        seed: See `CollectionSettings`.
        storage: See `CollectionSettings`.
        action_free: See `CollectionSettings`.
        steps_after_success: See `CollectionSettings`; None is the simulator's default.
        workers: Number of processes that simulate, each with one thread.
        resume: Continue an interrupted run, also one that was to overwrite a dataset; a completed one is left as it is.
        overwrite: Record everything again, and replace the dataset at `root` once the new one is complete. What an
            interrupted run has recorded is discarded.

    Returns:
        The dataset's folder.

    Raises:
        ValueError: A setting is out of range; `root` or an interrupted run exists and neither `resume` nor
            `overwrite` is set; the run to resume was started with other settings; another run writes to `root`; or a
            frame could not be stored.
        RuntimeError: The expert repeatedly fails to solve a task.
    """
    if env not in SOURCES:
        raise ValueError(f"`env` is {env!r}; it must be one of {', '.join(SOURCES)}.")
    source = SOURCES[env]
    settings = CollectionSettings(
        env=env,
        tasks=tuple(name for group in source.tasks(tasks).values() for name in group),
        episodes=episodes,
        seed=seed,
        image_size=_height_and_width(image_size) if image_size is not None else source.image_size,
        storage=storage,
        action_free=action_free,
        steps_after_success=(
            source.steps_after_success if steps_after_success is None else steps_after_success
        ),
    )
    if workers < 1:
        raise ValueError(f"`workers` is {workers}; it must be at least 1.")
    source.require(list(settings.tasks))
    root = _dataset_root(root, repo_id)
    with only_run(root, "root"):
        finish_move(root, _RECORD)
        check_replaced(root)
        if _is_complete(root, settings=settings, resume=resume, overwrite=overwrite):
            discard_staging(root, _RECORD)  # of a run that was killed at its very end
            logger.info("%s is already complete.", root)
        else:
            _collect(repo_id, root, settings, workers=workers, overwrite=overwrite)
    return root


def _height_and_width(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _collect(
    repo_id: str, root: Path, settings: CollectionSettings, *, workers: int, overwrite: bool
) -> None:
    """Records what an interrupted run has not, makes the dataset of all episodes, and moves it to its place."""
    staging, new = staging_folder(root), new_folder(root)
    if not (staging / _RECORD).exists():
        write_json(staging / _RECORD, {**asdict(settings), "overwrite": overwrite})
    (staging / "episodes").mkdir(exist_ok=True)
    if new.exists():  # an interrupted run has left it half written
        shutil.rmtree(new)
    dataset = _create_dataset(repo_id, new, settings)
    order = [(task, episode) for episode in range(settings.episodes) for task in settings.tasks]
    paths = [staging / "episodes" / f"{task}_{episode:06d}.npz" for task, episode in order]
    record = functools.partial(_stage_episode, settings)
    records = []
    with (
        _quiet_datasets(),
        _mapper(workers, settings.source) as run,
        tqdm(total=len(order), unit="episode", desc="Recording") as progress,
    ):
        for (task, episode), path in zip(order, run(record, order, paths), strict=True):
            records.append(_add_episode(dataset, path, settings.source, task=task, episode=episode))
            failures = sum(entry["failed_attempts"] for entry in records)
            progress.set_postfix(frames=dataset.meta.total_frames, failed_attempts=failures)
            progress.update()
    length = dataset.meta.total_frames
    dataset.finalize()
    if lost := find_lost_rows(new, length):
        raise ValueError(_lost_message(new, lost))
    write_json(new / "meta" / "collection.json", {"settings": asdict(settings), "episodes": records})
    _log_failures(records, settings.tasks)
    move_into_place(root, _RECORD)


_environments: OrderedDict[tuple, "gym.Env"] = OrderedDict()


def _environment(env: str, task: str, image_size: tuple[int, int]) -> "gym.Env":
    """Keeps the last environments of a process between episodes, as starting one takes about a second."""
    key = (env, task, image_size)
    if key not in _environments:
        while len(_environments) >= MAX_ENVIRONMENTS:
            _environments.popitem(last=False)[1].close()
        _environments[key] = SOURCES[env].make_env(task, image_size)
    _environments.move_to_end(key)
    return _environments[key]


def _close_environments() -> None:
    while _environments:
        _environments.popitem()[1].close()


def _stage_episode(settings: CollectionSettings, task_and_episode: tuple[str, int], path: Path) -> Path:
    """Records one episode into `path`, unless an earlier run already has."""
    task, episode = task_and_episode
    if not path.exists():
        recorded = settings.source.record(
            _environment(settings.env, task, settings.image_size),
            task=task,
            seed=settings.seed,
            episode=episode,
            steps_after_success=settings.steps_after_success,
        )
        columns = {**recorded.images, OBS_STATE: recorded.states, ACTION: recorded.actions}
        columns |= {name: np.array(getattr(recorded, name)) for name in _ORIGIN}
        with replaced_file(path) as partial, partial.open("wb") as file:
            np.savez(file, **columns)  # type: ignore[arg-type]
    return path


@contextmanager
def _mapper(workers: int, source: DemonstrationSource) -> Iterator[Any]:
    """Yields an ordered `map` that runs in this process for one worker, and otherwise in `workers` processes."""
    if workers == 1:
        try:
            yield map
        finally:
            _close_environments()
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", source.environment])
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_use_one_thread) as pool:
        yield pool.map


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    """Hides the progress bar of each saved episode, which would interrupt the one shown here."""
    import datasets

    hidden = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not hidden:
            datasets.enable_progress_bars()


def _use_one_thread() -> None:
    """Makes a worker's software renderer use one thread."""
    os.environ["LP_NUM_THREADS"] = "1"  # Mesa's rasterizer reads it when its first context is created


def _create_dataset(repo_id: str, root: Path, settings: CollectionSettings) -> "LeRobotDataset":
    """Creates the empty dataset."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    source = settings.source
    features: dict[str, dict[str, Any]] = {
        camera: {
            "dtype": settings.storage,
            "shape": (*settings.image_size, 3),
            "names": ["height", "width", "channels"],
        }
        for camera in source.cameras
    }
    if not settings.action_free:
        for name, parts in ((OBS_STATE, source.state_names), (ACTION, source.action_names)):
            features[name] = {"dtype": "float32", "shape": (len(parts),), "names": list(parts)}
    return LeRobotDataset.create(
        repo_id,
        fps=source.fps,
        features=features,
        root=root,
        robot_type=source.robot_type,
        use_videos=settings.storage == "video",
    )


def _add_episode(
    dataset: "LeRobotDataset", path: Path, source: DemonstrationSource, *, task: str, episode: int
) -> dict[str, Any]:
    """Writes a staged episode and returns its record for `collection.json`."""
    try:
        with np.load(path) as file:
            recorded = dict(file)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a whole episode ({error}). Delete it, and pass --resume.") from error
    names = [*source.cameras, *(name for name in (OBS_STATE, ACTION) if name in dataset.meta.features)]
    record = {
        "task": task,
        "episode": episode,
        **{name: kind(recorded[name]) for name, kind in _ORIGIN.items()},
    }
    instruction = source.instruction(task)
    for values in zip(*(recorded[name] for name in names), strict=True):
        dataset.add_frame({**dict(zip(names, values, strict=True)), "task": instruction})
    for camera in source.cameras:
        if lost := find_lost_frame(dataset, camera):
            raise ValueError(_lost_message(Path(dataset.root), f"{task}, episode {episode}: {lost}"))
    dataset.save_episode()
    return record


def _lost_message(folder: Path, lost: str) -> str:
    """The error for what LeRobot did not store."""
    return (
        f"{folder}: {lost}. Make sure that there is space and that the disk is sound, and pass --resume; the episodes "
        "that were recorded are kept."
    )


def _dataset_root(root: str | Path | None, repo_id: str) -> Path:
    """The dataset's folder: `root`, or the one in LeRobot's home."""
    if root is not None:
        return user_path(root).resolve()
    from lerobot.utils.constants import HF_LEROBOT_HOME

    return HF_LEROBOT_HOME / repo_id


def _is_complete(root: Path, *, settings: CollectionSettings, resume: bool, overwrite: bool) -> bool:
    """Compares what is on disk with what is asked for; True if there is nothing left to do."""
    if resume and overwrite:
        raise ValueError("`resume` and `overwrite` are both set; they exclude each other. Set one of them.")
    staging = staging_folder(root)
    if is_foreign(root, _RECORD):
        raise ValueError(
            f"{staging} is not an interrupted run, so it will not be touched. Move it away, or choose another `root`."
        )
    if overwrite:
        if root.exists() and not (root / "meta" / "info.json").exists():
            raise ValueError(f"{root} is not a dataset, so it will not be deleted. Choose another `root`.")
        discard_staging(root, _RECORD)
        return False
    stopped = _read_record(staging / _RECORD)
    replaces = stopped is not None and stopped.pop("overwrite", False) is True
    if not resume:
        if root.exists():
            raise ValueError(f"{root} already exists. Choose another `root`, or pass --overwrite.")
        if stopped is not None:
            raise ValueError(
                f"{staging} holds an interrupted run. Pass --resume to continue it, or --overwrite to start over."
            )
        return False
    if stopped is not None:
        _check_same_settings(stopped, settings, staging)
    if root.exists() and not replaces:
        finished = _read_record(root / "meta" / "collection.json")
        if finished is None:
            raise ValueError(
                f"{root} was not written by collect-demos, so it cannot be resumed. Choose another `root`."
            )
        _check_same_settings(finished.get("settings"), settings, root)
        return True
    return False


def _read_record(path: Path) -> dict[str, Any] | None:
    """What a run has written about itself; None if there is no such file."""
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not JSON ({error}), so it was not written by collect-demos, or has been changed. Pass "
            "--overwrite to start over, or choose another `root`."
        ) from error
    return record if isinstance(record, dict) else {}


def _check_same_settings(found: Any, asked: CollectionSettings, where: Path) -> None:
    """Refuses to resume a run with other settings."""
    found = found if isinstance(found, dict) else {}
    differing = [
        f"`{name}` was {found.get(name)!r} and is now {value!r}"
        for name, value in json.loads(json.dumps(asdict(asked))).items()
        if found.get(name) != value
    ]
    if differing:
        raise ValueError(
            f"{where} was started with other settings: {'; '.join(differing)}. Use the same settings, choose another "
            "`root`, or pass --overwrite."
        )


def _log_failures(records: list[dict[str, Any]], tasks: tuple[str, ...]) -> None:
    """Logs for each task how many attempts its episodes took."""
    for task in tasks:
        attempts = [1 + record["failed_attempts"] for record in records if record["task"] == task]
        logger.info("%s: kept %d episodes of %d attempts", task, len(attempts), sum(attempts))
