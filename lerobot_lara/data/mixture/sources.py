"""Opens the datasets of a mixture and checks that each holds what its entry names."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.utils import BackwardCompatibilityError
from lerobot.utils.constants import ACTION, OBS_STATE
from lerobot.utils.feature_utils import dataset_to_policy_features
from tqdm import tqdm

from lerobot_lara.data.metadata import CheckedMetadata, check_data_files
from lerobot_lara.data.mixture.config import EntryConfig, MixtureConfig, VectorMap
from lerobot_lara.data.mixture.config_rules import raise_together
from lerobot_lara.data.mixture.normalization import Stats, select_stats
from lerobot_lara.data.mixture.reader import ColumnReader

logger = logging.getLogger(__name__)

T = TypeVar("T")
# From this number of datasets on, a bar shows how many are open.
MANY = 10
# What LeRobot raises for a dataset that is neither on disk nor reachable.
UNREACHABLE = (
    OfflineModeIsEnabled,
    HfHubHTTPError,
    HFValidationError,
    httpx.TransportError,
    ConnectionError,
    FileNotFoundError,
)


@dataclass(frozen=True)
class Source:
    """An opened dataset: its metadata, and the columns of its entry, checked against the metadata.

    Args:
        config: The entry.
        meta: LeRobot's metadata.
        cameras: Camera of the policy -> camera of the dataset.
        state: Column, dimensions and mirrored dimensions of the state; None without a state.
        action: Column, dimensions and mirrored dimensions of the action; None for an action-free entry.
        embodiment: Name of the embodiment.
    """

    config: EntryConfig
    meta: LeRobotDatasetMetadata
    cameras: dict[str, str]
    state: VectorMap | None
    action: VectorMap | None
    embodiment: str

    @property
    def name(self) -> str:
        """Name of the entry."""
        return self.config.name

    @property
    def fps(self) -> float:
        """Frames per second."""
        return self.meta.fps

    def camera_shape(self, camera: str) -> tuple[int, int]:
        """Height and width, in pixels, of the images that fill one of the policy's cameras."""
        _, height, width = image_shape(self.meta, self.cameras[camera])
        return height, width

    def dim(self, column: VectorMap | None) -> int:
        """Number of dimensions taken from a mapped column; 0 without a column."""
        if column is None:
            return 0
        return len(column.dims) if column.dims is not None else self._width(column)

    def stats(self, column: VectorMap) -> Stats:
        """Statistics of a mapped column.

        Raises:
            ValueError: The dataset has none.
        """
        if not self.meta.stats or column.key not in self.meta.stats:
            raise ValueError(
                f"Entry {self.name!r} has no statistics of `{column.key}` in meta/stats.json. Recompute them with "
                "`lerobot-edit-dataset`, or upgrade the dataset with `lara upgrade-dataset`."
            )
        return select_stats(self.meta.stats[column.key], column.dims, column.invert)

    def frame_gap(self, mixture: MixtureConfig, policy_gap: int) -> int:
        """Frames between o_t and o_{t+K} in this dataset.

        Args:
            mixture: Its `frame_gap_s` applies if the entry has none.
            policy_gap: The policy's frame gap, which applies if the mixture has none either.

        Returns:
            K, at least 1.
        """
        seconds = self.config.frame_gap_s or mixture.frame_gap_s
        return policy_gap if seconds is None else max(1, round(seconds * self.fps))

    def episodes(self) -> list[int]:
        """Numbers of the episodes in use, in order.

        Raises:
            ValueError: The entry names an episode that the dataset does not have.
        """
        total = self.meta.total_episodes
        chosen = self.config.episodes
        if chosen is not None and max(chosen) >= total:
            raise ValueError(
                f"`episodes` of entry {self.name!r} contains {max(chosen)}; it must contain numbers from 0 to "
                f"{total - 1}, the episodes of the dataset."
            )
        return list(range(total)) if chosen is None else sorted(set(chosen))

    def open_reader(self, episodes: list[int], *, video_backend: str, tolerance_s: float) -> ColumnReader:
        """Opens the given episodes for reading, after downloading them from the Hub if necessary.

        Args:
            episodes: Numbers of the episodes.
            video_backend: LeRobot's name of the video decoder.
            tolerance_s: How far a decoded frame may be from its timestamp, in seconds.

        Raises:
            ValueError: They are neither on this machine nor can they be downloaded.
        """
        check_data_files(self.meta, episodes)
        everything = len(episodes) == self.meta.total_episodes
        try:
            dataset = LeRobotDataset(
                self.config.repo_id,
                root=self.config.root,
                revision=self.config.revision,
                episodes=None if everything else episodes,
                return_uint8=True,
            )
        except UNREACHABLE as error:
            raise ValueError(
                _missing_file(self.meta, episodes) or _unreachable(self.config, error)
            ) from error
        return ColumnReader(dataset, name=self.name, video_backend=video_backend, tolerance_s=tolerance_s)

    def _width(self, column: VectorMap) -> int:
        assert column.key is not None
        return int(np.prod(self.meta.features[column.key]["shape"]))


def open_sources(mixture: MixtureConfig, *, use_actions: bool) -> list[Source]:
    """Opens the metadata of all entries with a weight above 0, and of the reference dataset.

    Args:
        mixture: The mixture.
        use_actions: False for a policy that learns only from video; states and actions are then left out.

    Raises:
        ValueError: Datasets are missing, have an older format or lack a column or camera, all of which is said at
            once; two entries of one embodiment differ in their dimensions; or no entry has actions although the policy
            learns from them.
    """
    metas = _open_all(mixture)
    cameras = mixture.cameras or _reference_cameras(mixture, metas[mixture.reference_entry.name])
    sources: list[Source] = []
    problems: list[str] = []
    for entry in mixture.opened_entries:
        source, found = _open_source(mixture, entry, metas[entry.name], cameras, use_actions=use_actions)
        sources += [] if source is None else [source]
        problems += found
    raise_together(problems)
    unseen = [camera for camera in cameras if not any(camera in source.cameras for source in sources)]
    if unseen:
        logger.warning(
            "No entry maps a camera to %s of the mixture's `cameras`; these images are black everywhere.",
            unseen,
        )
    if use_actions and all(source.action is None for source in sources):
        raise ValueError(
            "`entries` are all action-free, but the policy learns from actions. Add a dataset with actions, or train a "
            "latent action model with --policy.type=lara_lam."
        )
    _check_dims(sources)
    return sources


def _open_all(mixture: MixtureConfig) -> dict[str, LeRobotDatasetMetadata]:
    """Metadata of the entries in use; what is wrong with them is said about all of them at once."""
    metas: dict[str, LeRobotDatasetMetadata] = {}
    problems = []
    entries = mixture.opened_entries
    for entry in tqdm(entries, desc="Opening datasets", unit="dataset", disable=len(entries) < MANY):
        try:
            metas[entry.name] = open_meta(entry)
        except ValueError as error:
            problems.append(str(error))
    raise_together(problems)
    return metas


def _open_source(
    mixture: MixtureConfig,
    entry: EntryConfig,
    meta: LeRobotDatasetMetadata,
    cameras: list[str],
    *,
    use_actions: bool,
) -> tuple[Source | None, list[str]]:
    """The source of an entry, and what its entry names that the dataset does not have, all of it at once."""
    problems: list[str] = []

    def attempt(function: Callable[..., T], *args: Any) -> T | None:
        try:
            return function(*args)
        except ValueError as error:
            problems.append(str(error))
            return None

    with_vectors = use_actions and not entry.action_free
    found = attempt(_check_cameras, entry, meta, cameras)
    state = action = None
    if with_vectors:
        action = attempt(_check_action, entry, meta)
        state = attempt(_check_vector, entry, meta, "state", entry.state, OBS_STATE)
    attempt(_check_language, entry, meta)
    source = Source(
        config=entry,
        meta=meta,
        cameras=found or {},
        state=state,
        action=action,
        embodiment=mixture.embodiment_of(entry),
    )
    attempt(source.episodes)
    return (None if problems else source), problems


def _check_action(entry: EntryConfig, meta: LeRobotDatasetMetadata) -> VectorMap:
    """The column of the actions of an entry that is not action-free."""
    action = _check_vector(entry, meta, "action", entry.action, ACTION)
    if action is None:
        raise ValueError(
            f"Entry {entry.name!r} has no `{ACTION}` column ({entry.repo_id}). Train a latent action model on it "
            "with --policy.type=lara_lam; or name its column in `action: {key: ...}` of a mixture file, or set "
            "`action_free: true` there."
        )
    return action


def split_episodes(source: Source, eval_split: float) -> tuple[list[int], list[int]]:
    """Splits the episodes in use as LeRobot does: the last ceil(n * eval_split) of every task are held out.

    Tasks with a single episode, of which captioned video often consists, are split together as one task.

    Args:
        source: The dataset.
        eval_split: Share of the episodes to hold out, in [0, 1).

    Returns:
        Numbers of the training episodes and of the held-out episodes, in order.

    Raises:
        ValueError: No training episode is left.
    """
    episodes = source.episodes()
    if eval_split == 0:
        return episodes, []
    tasks = source.meta.episodes["tasks"][:]  # one read; by episode it is a thousand times slower
    groups: dict[str, list[int]] = {}
    for episode in episodes:
        groups.setdefault(tasks[episode][0] if tasks[episode] else "", []).append(episode)
    single = [episode for group in groups.values() if len(group) == 1 for episode in group]
    split = [group for group in groups.values() if len(group) > 1] + ([single] if single else [])
    training, held_out = [], []
    for group in split:
        count = math.ceil(len(group) * eval_split)
        training += group[: len(group) - count]
        held_out += group[len(group) - count :]
    if not training:
        raise ValueError(
            f"`dataset.eval_split` is {eval_split}, which leaves no training episode of entry {source.name!r}, which "
            f"has {len(episodes)}. Lower it, or add episodes."
        )
    return sorted(training), sorted(held_out)


def open_meta(entry: EntryConfig) -> LeRobotDatasetMetadata:
    """Opens the metadata of an entry's dataset, after downloading them from the Hub if necessary.

    Raises:
        ValueError: The dataset has an older format, its metadata are damaged or wrong, or it is neither on this
            machine nor can it be downloaded.
    """
    try:
        return CheckedMetadata(entry.repo_id, root=entry.root, revision=entry.revision)
    except BackwardCompatibilityError as error:
        raise ValueError(
            f"Entry {entry.name!r} ({entry.repo_id}) has an older dataset format. Convert it with `lara "
            f"upgrade-dataset {entry.root or entry.repo_id} <folder>`, and give the folder as `root`."
        ) from error
    except UNREACHABLE as error:
        raise ValueError(_unreachable(entry, error)) from error


def _missing_file(meta: LeRobotDatasetMetadata, episodes: Sequence[int]) -> str | None:
    """The message for a dataset of which a file is missing on this machine; None if none of it is there."""
    files = {
        file
        for episode in episodes
        for file in (
            meta.get_data_file_path(episode),
            *(meta.get_video_file_path(episode, key) for key in meta.video_keys),
        )
    }
    missing = sorted(file for file in files if not (meta.root / file).is_file())
    if not missing or len(missing) == len(files):
        return None
    return (
        f"{meta.root / missing[0]} does not exist ({len(missing)} of {len(files)} files of {meta.repo_id} are missing "
        "and cannot be downloaded). Copy or download the dataset again."
    )


def _missing_metadata(entry: EntryConfig, error: BaseException | None) -> str | None:
    """The metadata file that a local dataset lacks; None for one that is not on this machine."""
    while error is not None:
        name = getattr(error, "filename", None)
        if (
            isinstance(error, FileNotFoundError)
            and isinstance(name, str)
            and Path(name).parent.name == "meta"
        ):
            local = entry.root is not None or (Path(name).parent / "info.json").is_file()
            return name if local else None
        error = error.__cause__ or error.__context__
    return None


def _unreachable(entry: EntryConfig, error: Exception) -> str:
    """The message for a dataset that is neither on disk nor reachable."""
    missing = _missing_metadata(entry, error)
    if missing is not None:
        return f"Entry {entry.name!r}: {missing} does not exist and cannot be downloaded. Copy or download it again."
    return (
        f"Entry {entry.name!r}: the dataset {entry.repo_id} is not on this machine and cannot be downloaded "
        f"({type(error).__name__}: {' '.join(str(error).split())[:200]}). Check `repo_id` and `revision`, go online, "
        "or name a local folder in `root`."
    )


def _reference_cameras(mixture: MixtureConfig, meta: LeRobotDatasetMetadata) -> list[str]:
    """The policy's cameras where the mixture names none: those of the reference dataset."""
    mapped = mixture.reference_entry.cameras
    if mapped:
        return list(mapped.values())
    cameras = color_cameras(meta)
    if not cameras:
        found = [f"{key!r} ({_without_color(meta, key)})" for key in meta.camera_keys]
        raise ValueError(
            f"Entry {mixture.reference_entry.name!r} has no camera that records color, only "
            f"{', '.join(found) or sorted(meta.features)}. Train on a dataset with a color camera; in a mixture, name "
            "it in `reference`, or the policy's cameras in `cameras`."
        )
    left_out = [key for key in meta.camera_keys if key not in cameras]
    if left_out:
        logger.info("Left out of %r, as they have no color: %s.", mixture.reference_entry.name, left_out)
    return cameras


def color_cameras(meta: LeRobotDatasetMetadata) -> list[str]:
    """The cameras of a dataset that record color, in its order; others record depth or shades of gray."""
    return [key for key in meta.camera_keys if _without_color(meta, key) is None]


def _without_color(meta: LeRobotDatasetMetadata, key: str) -> str | None:
    """What a camera records instead of color; None if it records color."""
    if key in meta.depth_keys:
        return "depth"
    channels = image_shape(meta, key)[0]
    pixel_format = str((meta.features[key].get("info") or {}).get("video.pix_fmt", ""))
    if channels != 3 or pixel_format.startswith("gray"):
        return f"{channels} channel(s) {pixel_format}".strip()
    return None


def _check_cameras(entry: EntryConfig, meta: LeRobotDatasetMetadata, cameras: list[str]) -> dict[str, str]:
    """Camera of the policy -> camera of the dataset."""
    wanted = entry.cameras or {camera: camera for camera in cameras if camera in meta.camera_keys}
    if not wanted:
        raise ValueError(
            f"Entry {entry.name!r} has none of the policy's cameras {cameras}, only {meta.camera_keys}. Map one of "
            "them in `cameras: {dataset key: policy key}`."
        )
    for key, camera in wanted.items():
        if key not in meta.camera_keys:
            raise ValueError(
                f"`cameras` of entry {entry.name!r} maps {key!r}; it must map cameras of the dataset, which are "
                f"{meta.camera_keys}."
            )
        if camera not in cameras:
            raise ValueError(
                f"`cameras` of entry {entry.name!r} maps {key!r} to {camera!r}; it must map to the policy's cameras, "
                f"which are {cameras}. Correct it, or add the camera to the mixture's `cameras`."
            )
        if kind := _without_color(meta, key):
            raise ValueError(
                f"Camera {key!r} of entry {entry.name!r} is not RGB but has {kind}. Map another camera, one of "
                f"{color_cameras(meta)}."
            )
    return {camera: key for key, camera in wanted.items()}


def _check_vector(
    entry: EntryConfig, meta: LeRobotDatasetMetadata, name: str, column: VectorMap | None, default: str
) -> VectorMap | None:
    """The column of an entry's states or actions; `default` if it names none, None if there is none."""
    if column is None and default in meta.features:
        column = VectorMap(default)
    if column is None or column.key is None:
        return None
    if column.key not in meta.features:
        raise ValueError(
            f"`{name}.key` of entry {entry.name!r} is {column.key!r}; it must be a column of the dataset, one of "
            f"{sorted(meta.features)}."
        )
    feature = meta.features[column.key]
    shape = tuple(feature["shape"])
    if len(shape) > 1 or not feature["dtype"].startswith(("float", "int", "uint", "bool")):
        flat = f" Store it as vectors of length {math.prod(shape)}." if len(shape) > 1 else ""
        raise ValueError(
            f"`{column.key}`, the {name} of entry {entry.name!r}, is of type {feature['dtype']} and shape {shape}; it "
            f"must be a column of numeric vectors.{flat} Or name another column in `{name}: {{key: ...}}` of a mixture "
            "file."
        )
    width = math.prod(shape)
    for field_name in ("dims", "invert"):
        dims = getattr(column, field_name)
        if dims is not None and (len(dims) == 0 or min(dims) < 0 or max(dims) >= width):
            raise ValueError(
                f"`{name}.{field_name}` of entry {entry.name!r} is {dims}; it must list dimensions of "
                f"`{column.key}`, 0 to {width - 1}."
            )
    return column


def _check_language(entry: EntryConfig, meta: LeRobotDatasetMetadata) -> None:
    if entry.instruction is not None or entry.language_key == "task":
        return
    found = meta.features.get(entry.language_key, {}).get("dtype")
    if found != "string":
        texts = [key for key, feature in meta.features.items() if feature["dtype"] == "string"]
        raise ValueError(
            f"`language_key` of entry {entry.name!r} is {entry.language_key!r}, which is "
            f"{'absent' if found is None else found}; it must be a text column, one of {['task', *texts]}."
        )


def _check_dims(sources: list[Source]) -> None:
    """Makes sure that entries of one embodiment have equally many dimensions, as they share projections."""
    first: dict[tuple[str, str], Source] = {}
    for source in sources:
        for name in ("action", "state"):
            if getattr(source, name) is None:
                continue
            other = first.setdefault((source.embodiment, name), source)
            dims = [each.dim(getattr(each, name)) for each in (other, source)]
            if dims[0] != dims[1]:
                raise ValueError(
                    f"Entries {other.name!r} and {source.name!r} have the same embodiment {source.embodiment!r}, but "
                    f"their {name}s have {dims[0]} and {dims[1]} dimensions. Give one of them another `embodiment`, or "
                    f"choose `{name}.dims`."
                )


def image_shape(meta: LeRobotDatasetMetadata, key: str) -> tuple[int, int, int]:
    """Channels, height and width of a camera."""
    shape = dataset_to_policy_features({key: meta.features[key]})[key].shape
    return shape[0], shape[1], shape[2]
