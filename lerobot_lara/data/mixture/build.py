"""Builds the training set of a mixture for a policy."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.configs import FeatureType, NormalizationMode, PreTrainedConfig
from lerobot.datasets.compute_stats import aggregate_stats
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import Tensor
from torch.utils.data import Dataset, Subset
from tqdm import tqdm

from lerobot_lara.batch.frame_gap import check_frame_gap
from lerobot_lara.data.mixture.config import MixtureConfig, VectorMap
from lerobot_lara.data.mixture.dataset import MixtureDataset
from lerobot_lara.data.mixture.entry_labels import EntryLabels
from lerobot_lara.data.mixture.metadata import MixtureMetadata
from lerobot_lara.data.mixture.normalization import Stats, UnitConversion, unit_conversion
from lerobot_lara.data.mixture.number_checks import number_problems, time_problems, usable_stats
from lerobot_lara.data.mixture.policy_checks import check_camera, check_policy, check_room, embodiment_rows
from lerobot_lara.data.mixture.reader import ColumnReader
from lerobot_lara.data.mixture.samples import EntrySamples, SampleLayout
from lerobot_lara.data.mixture.schedule import DrawSchedule, sample_shares, with_action_free_share
from lerobot_lara.data.mixture.sources import MANY, Source, open_sources, split_episodes
from lerobot_lara.data.mixture.video_checks import video_problems

logger = logging.getLogger(__name__)


def build_mixture(
    config: MixtureConfig,
    policy: PreTrainedConfig,
    *,
    path: str | Path,
    video_backend: str,
    tolerance_s: float = 1e-4,
    image_transforms: Callable[[Tensor], Tensor] | None = None,
    eval_split: float = 0.0,
    max_eval_samples: int = 0,
) -> tuple[MixtureDataset, Dataset | None]:
    """Opens the datasets of a mixture for a policy.

    Args:
        config: The mixture.
        policy: Configuration of the policy: its windows of frames and actions, normalization and maximum dimensions.
        path: The mixture file, for records.
        video_backend: LeRobot's name of the video decoder.
        tolerance_s: How far a decoded frame may be from its timestamp, in seconds.
        image_transforms: LeRobot's augmentation, for training samples only.
        eval_split: Share of the episodes of every entry that is held out, in [0, 1); see `split_episodes`.
        max_eval_samples: Largest number of held-out samples; 0 takes all of them.

    Returns:
        The training set, and the held-out set, which is None if `eval_split` is 0.

    Raises:
        ValueError: A dataset does not hold what its entry names, or the policy cannot learn from the mixture.
    """
    builder = MixtureBuilder(config, policy, path=path, video_backend=video_backend, tolerance_s=tolerance_s)
    # A reference dataset of weight 0 lends its units and dimensions, and no samples.
    splits = [
        split_episodes(source, eval_split) if source.config.weight > 0 else ([], [])
        for source in builder.sources
    ]
    entries = builder.entries([split[0] for split in splits], image_transforms)
    weights = [entry.source.config.weight for entry in entries]
    shares = sample_shares(weights, [len(entry) for entry in entries], config.weights)
    if config.action_free_share is not None:
        shares = with_action_free_share(
            shares, [entry.labeled for entry in entries], config.action_free_share
        )
    dataset = builder.dataset(entries, shares)
    _log(dataset.meta.mixture)
    if eval_split == 0:
        return dataset, None
    return dataset, _held_out(builder, [split[1] for split in splits], max_eval_samples)


def _held_out(
    builder: "MixtureBuilder", episodes: Sequence[list[int]], max_samples: int
) -> Subset[dict[str, Any]]:
    """Every held-out frame once, whatever the weights.

    The order is fixed and mixes the datasets, as LeRobot averages the loss over batches, which must be alike.
    """
    entries = [entry for entry in builder.entries(episodes, None, held_out=True) if len(entry)]
    if not entries:
        raise ValueError(
            "`dataset.eval_split` holds out no episode that is longer than its frame gap. Raise it, or set it to 0."
        )
    dataset = builder.dataset(entries, sample_shares([len(entry) for entry in entries], [], "share"))
    order = np.random.default_rng(0).permutation(len(dataset))
    return Subset(dataset, order[: max_samples or len(dataset)].tolist())


class MixtureBuilder:
    """Fits the datasets of a mixture to one policy; see `build_mixture` for the arguments."""

    def __init__(
        self,
        config: MixtureConfig,
        policy: PreTrainedConfig,
        *,
        path: str | Path,
        video_backend: str,
        tolerance_s: float,
    ) -> None:
        self.config = config
        self.policy = policy
        self.path = path
        self._video_backend = video_backend
        self._tolerance_s = tolerance_s
        self.rows = embodiment_rows(policy, config.embodiments)
        use_actions = policy.action_delta_indices is not None
        self.sources = open_sources(config, use_actions=use_actions)
        self._readers: dict[tuple[str, tuple[int, ...]], ColumnReader] = {}
        self.reference = next(source for source in self.sources if source.config is config.reference_entry)
        if use_actions and self.reference.action is None:
            raise ValueError(
                f"`reference` is {self.reference.name!r}, which is action-free; it must be an entry with actions, the "
                "dataset of the robot that the policy acts for. Name that one."
            )
        # All that the metadata tell is checked before any data is read, which may take minutes.
        self.layout = self._layout()
        check_policy(policy, self.sources, self.layout)
        check_room(policy, self.reference, self.layout)
        if self._policy_gap is not None:
            for source in self.sources:
                self._frame_gap(source, self._policy_gap)
                check_camera(policy, source, self.layout)
        self.labels = self._open_labels()
        for source in tqdm(
            self.sources, desc="Checking datasets", unit="dataset", disable=len(self.sources) < MANY
        ):
            self._check(source)
        # The statistics are complete now.
        self.layout = replace(self.layout, state_fill=self._fill("state"), action_fill=self._fill("action"))

    def entries(
        self,
        episodes: Sequence[list[int]],
        image_transforms: Callable[[Tensor], Tensor] | None,
        *,
        held_out: bool = False,
    ) -> list[EntrySamples]:
        """Cuts the given episodes of every source into samples; a source without any is left out.

        Args:
            episodes: Numbers of the episodes of each source.
            image_transforms: LeRobot's augmentation; None for none.
            held_out: Whether these are held-out episodes, which may be shorter than the frame gap.
        """
        return [
            self._entry(index, source, chosen, image_transforms, held_out=held_out)
            for index, (source, chosen) in enumerate(zip(self.sources, episodes, strict=True))
            if chosen
        ]

    def dataset(self, entries: list[EntrySamples], shares: list[float]) -> MixtureDataset:
        """Makes a dataset of samples that are drawn at the given shares, which sum to 1."""
        schedule = DrawSchedule(
            [len(entry) for entry in entries], shares, [entry.source.name for entry in entries]
        )
        features, stats = self._features_and_stats()
        meta = MixtureMetadata(
            repo_id=str(self.path),
            features=features,
            stats=stats,
            fps=self.reference.fps,
            robot_type=self.reference.meta.robot_type,
            tasks=_tasks(entries),
            num_draws=len(schedule),
            dropped_draws=getattr(self.policy, "drop_n_last_frames", 0),
            total_episodes=sum(len(entry.reader.episodes) for entry in entries),
            total_frames=sum(int(entry.reader.lengths.sum()) for entry in entries),
            description=self._describe(entries, schedule),
            latent_labels=None if self.labels is None else self.labels.manifest,
        )
        return MixtureDataset(entries, schedule, meta, skip_broken=self.config.on_broken_video == "skip")

    def _reader(self, source: Source, episodes: list[int]) -> ColumnReader:
        """The reader of some episodes of a source, opened once."""
        key = (source.name, tuple(episodes))
        if key not in self._readers:
            self._readers[key] = source.open_reader(
                episodes, video_backend=self._video_backend, tolerance_s=self._tolerance_s
            )
        return self._readers[key]

    def _check(self, source: Source) -> None:
        """Checks the numbers, times and videos of a source, and completes its statistics."""
        reader = self._reader(source, source.episodes())
        columns = {
            column.key: column.dims
            for column in (source.state, source.action)
            if column is not None and column.key is not None
        }
        problems = number_problems(reader, columns) + time_problems(reader)
        if not problems and self.config.on_broken_video == "error":
            problems = video_problems(reader, source.cameras.values())
        if problems:
            raise ValueError(f"Entry {source.name!r} cannot be trained on. {' '.join(problems)}")
        for key in columns:
            stats = usable_stats(reader, key, (source.meta.stats or {}).get(key), name=source.name)
            source.meta.stats = (source.meta.stats or {}) | {key: stats}

    def _layout(self) -> SampleLayout:
        """What the samples of all datasets have in common."""
        cameras = self.config.cameras or list(self.reference.cameras)
        deltas = self.policy.action_delta_indices
        dims = {
            name: [source.dim(getattr(source, name)) for source in (self.reference, *self.sources)]
            for name in ("state", "action")
        }
        if self.reference.state is None and max(dims["state"]) > 0:
            logger.warning(
                "The reference dataset %r has no state; the states of the other entries are left out.",
                self.reference.name,
            )
            dims["state"] = [0]
        labeled = [source for source in self.sources if source.action is not None]
        return SampleLayout(
            image_sizes={camera: self._image_size(camera) for camera in cameras},
            action_deltas=None if deltas is None else tuple(deltas),
            state_dim=dims["state"][0],
            action_dim=dims["action"][0],
            max_state_dim=max(dims["state"]),
            max_action_dim=max(dims["action"]),
            state_fill=np.zeros(0),
            action_fill=np.zeros(0),
            # A policy that must not notice the alignment gets no flags that its own data would not have.
            flag_cameras=not self._frame_pair_apart
            and any(set(source.cameras) != set(cameras) for source in self.sources),
            flag_state=any(source.state is None for source in labeled),
        )

    def _image_size(self, camera: str) -> tuple[int, int]:
        """Height and width of the images of one of the policy's cameras."""
        if self.config.image_size is not None:
            return self.config.image_size[0], self.config.image_size[1]
        own = self.reference.cameras
        return self.reference.camera_shape(camera if camera in own else next(iter(own)))

    def _entry(
        self,
        index: int,
        source: Source,
        episodes: list[int],
        image_transforms: Callable[[Tensor], Tensor] | None,
        *,
        held_out: bool,
    ) -> EntrySamples:
        """Cuts episodes of one source into samples."""
        reader = self._reader(source, episodes)
        deltas = self.policy.observation_delta_indices
        policy_gap = self._policy_gap
        frame_pair = None
        if policy_gap is not None:
            gap = self._frame_gap(source, policy_gap)
            if not held_out:
                _check_pairs(source, reader.lengths.tolist(), gap)
                _check_steps(source, reader.lengths.tolist(), gap, getattr(self.policy, "latent_steps", 1))
            if self._frame_pair_apart:
                frame_pair = (self._lam_camera, gap)
            elif self.labels is None:
                assert deltas is not None
                # Whole frame gaps, in this dataset's frames.
                deltas = [delta * gap // policy_gap for delta in deltas]
        elif self._frame_pair_apart:
            frame_pair = (self._lam_camera, 0)
        return EntrySamples(
            source=source,
            reader=reader,
            layout=self.layout,
            index=index,
            embodiment_id=self.rows[source.embodiment],
            observation_deltas=deltas,
            state_units=self._units(source, "state"),
            action_units=self._units(source, "action"),
            action_dim=self._action_dim(source),
            frame_pair=frame_pair,
            labels=None if self.labels is None else self.labels.join(source, training=not held_out),
            label_gap=0 if self.labels is None else self.labels.gap(source),
            needs_pair=policy_gap is not None and source.action is None,
            image_transforms=image_transforms,
        )

    @property
    def _policy_gap(self) -> int | None:
        """Frame gap of a policy that learns from frame pairs, or from the labels of such."""
        policy = self.policy
        learns = (
            policy.observation_delta_indices is not None
            or getattr(policy, "pair_gap", 0) > 0
            or getattr(policy, "label_request", None) is not None
        )
        return getattr(policy, "frame_gap", None) if learns else None

    @property
    def _frame_pair_apart(self) -> bool:
        """Whether the policy takes the frame pair beside its observations, of which the pair is no part."""
        return getattr(self.policy, "frame_pair_apart", False)

    @property
    def _lam_camera(self) -> str:
        """Camera of the policy that the latent action model looks at."""
        return getattr(self.policy, "lam_camera", None) or self.layout.cameras[0]

    def _open_labels(self) -> EntryLabels | None:
        """The labels of the entries, for a policy that wants them."""
        request, gap = getattr(self.policy, "label_request", None), self._policy_gap
        if request is None or gap is None:
            return None
        others = [source for source in self.sources if source is not self.reference]
        return EntryLabels(
            [self.reference, *others],
            request,
            camera=self._lam_camera,
            frame_size=self.layout.image_sizes[self._lam_camera],
            frame_gaps={source.name: self._frame_gap(source, gap) for source in self.sources},
        )

    def _frame_gap(self, source: Source, policy_gap: int) -> int:
        """Frame gap of a source; that of the reference dataset must be the policy's."""
        gap = source.frame_gap(self.config, policy_gap)
        if source is self.reference and gap != policy_gap:
            raise ValueError(
                f"`frame_gap` is {policy_gap}; it must be {gap}, the gap of the reference dataset {source.name!r} in "
                f"frames at {source.fps} fps. Pass --policy.frame_gap={gap}, or change `frame_gap_s` in the mixture "
                "file."
            )
        return gap

    def _action_dim(self, source: Source) -> int:
        """Action dimensions of an entry's robot; for video without such a robot, those of the reference dataset."""
        same = [
            other.dim(other.action)
            for other in (source, *self.sources)
            if other.action is not None and other.embodiment == source.embodiment
        ]
        return same[0] if same else self.layout.action_dim

    def _units(self, source: Source, name: str) -> UnitConversion | None:
        """Conversion of an entry's states or actions to the reference dataset's units, if both have them."""
        if getattr(source, name) is None or getattr(self.reference, name) is None:
            return None
        own, reference = self._stats(source, name), self._stats(self.reference, name)
        return unit_conversion(own, reference, self._mode(name), f"`{name}` of entry {source.name!r}")

    def _fill(self, name: str) -> np.ndarray:
        """Middle of the reference dataset's states or actions."""
        units = self._units(self.reference, name)
        return np.zeros(0) if units is None else units.fill

    def _stats(self, source: Source, name: str) -> Stats:
        """Statistics that normalize an entry's states or actions, as `MixtureConfig.statistics` says."""
        if self.config.statistics == "dataset":
            return source.stats(getattr(source, name))
        same = [
            {name: other.stats(getattr(other, name))}
            for other in self.sources
            if other.embodiment == source.embodiment and getattr(other, name) is not None
        ]
        return aggregate_stats(same)[name]

    def _mode(self, name: str) -> NormalizationMode:
        """The policy's normalization of states or actions."""
        kind = FeatureType.STATE if name == "state" else FeatureType.ACTION
        return NormalizationMode(
            self.policy.normalization_mapping.get(kind.value, NormalizationMode.IDENTITY)
        )

    def _features_and_stats(self) -> tuple[dict[str, dict], dict[str, dict[str, Any]]]:
        """Features of the samples in LeRobot's form, and statistics of the reference dataset."""
        reference, layout = self.reference, self.layout
        features: dict[str, dict] = {}
        stats: dict[str, dict[str, Any]] = {}
        for camera in layout.cameras:
            shape = (*layout.image_sizes[camera], 3)
            features[camera] = {"dtype": "image", "shape": shape, "names": ["height", "width", "channels"]}
            stats[camera] = dict((reference.meta.stats or {}).get(reference.cameras.get(camera, ""), {}))
        for name, key, dim in (("state", OBS_STATE, layout.state_dim), ("action", ACTION, layout.action_dim)):
            if dim:
                names = _names(reference, getattr(reference, name))
                features[key] = {"dtype": "float32", "shape": (dim,), "names": names}
                stats[key] = self._stats(reference, name)
        return features, stats

    def _describe(self, entries: Sequence[EntrySamples], schedule: DrawSchedule) -> dict[str, Any]:
        """Everything that decides what a draw is, as a record that can be written as JSON."""
        _, stats = self._features_and_stats()
        vectors = {
            key: {name: np.asarray(value).tolist() for name, value in stats[key].items()}
            for key in (OBS_STATE, ACTION)
            if key in stats
        }
        return {
            "reference": self.reference.name,
            "cameras": list(self.layout.cameras),
            "image_size": _sizes(self.layout.image_sizes),
            "statistics": self.config.statistics,
            "reference_statistics": _digest(vectors),
            "embodiments": self.rows,
            "draws_per_epoch": len(schedule),
            "entries": [
                {
                    **{
                        name: value
                        for name, value in asdict(entry.source.config).items()
                        # Where the dataset lies and how its share came about; episodes and embodiment are below.
                        if name not in ("root", "weight", "episodes", "embodiment", "labels")
                    },
                    **({} if self.labels is None else self.labels.describe(entry.source)),
                    "draws": draws,
                    "frames_of_episodes": _digest([entry.reader.episodes, entry.reader.lengths.tolist()]),
                    "episodes": len(entry.reader.episodes),
                    "frames": int(entry.reader.lengths.sum()),
                    "usable_frames": len(entry),
                    "fps": entry.source.fps,
                    "window": list(entry.observation_deltas or (0,)),
                    **({} if entry.frame_pair is None else {"frame_pair": [0, entry.frame_pair[1]]}),
                    "labeled": entry.labeled,
                    "embodiment": entry.source.embodiment,
                }
                for entry, draws in zip(entries, schedule.draws, strict=True)
            ],
        }


def _sizes(image_sizes: dict[str, tuple[int, int]]) -> list[int] | dict[str, list[int]]:
    """The one size of all cameras, or else the size of each."""
    sizes = {camera: list(size) for camera, size in image_sizes.items()}
    first, *others = sizes.values()
    return first if all(size == first for size in others) else sizes


def _digest(content: Any) -> str:
    """Short hash of content that can be written as JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _check_pairs(source: Source, lengths: list[int], gap: int) -> None:
    """`check_frame_gap` with an error that names the entry."""
    try:
        check_frame_gap(lengths, gap)
    except ValueError as error:
        raise ValueError(f"Entry {source.name!r} at {source.fps} fps: {error}") from error


def _check_steps(source: Source, lengths: list[int], gap: int, steps: int) -> None:
    """Refuses a policy that looks further ahead than every episode is long."""
    if max(lengths) <= steps * gap:
        raise ValueError(
            f"Entry {source.name!r}: `latent_steps` is {steps} and the frame gap {gap} frames, but the longest episode "
            f"has {max(lengths)} frames. Set latent_steps to {(max(lengths) - 1) // gap}, or use longer episodes."
        )


def _names(source: Source, column: VectorMap) -> Any:
    """Names of a mapped column's dimensions, if the dataset names them."""
    assert column.key is not None
    names = source.meta.features[column.key].get("names")
    if column.dims is None:
        return names
    if not isinstance(names, list) or len(names) <= max(column.dims):
        return None
    return [names[dim] for dim in column.dims]


def _tasks(entries: Sequence[EntrySamples]) -> list[str]:
    """Instructions of all entries, each once."""
    tasks: dict[str, None] = {}
    for entry in entries:
        tasks |= dict.fromkeys(entry.instructions())
    return list(tasks)


def _log(mixture: dict[str, Any]) -> None:
    """Logs one line for each entry of a mixture's record."""
    for entry in mixture["entries"]:
        gap = entry.get("label_gap", max(entry.get("frame_pair", entry["window"])))
        logger.info(
            "Data: %.1f %% %s: %d episodes, %d frames at %g fps, frame gap %d (%.2f s), %s",
            100 * entry["draws"] / mixture["draws_per_epoch"],
            entry["name"],
            entry["episodes"],
            entry["frames"],
            entry["fps"],
            gap,
            gap / entry["fps"],
            "with actions" if entry["labeled"] else "action-free",
        )
