"""The mixture file: which datasets are trained on together, how often, and how each fits the policy."""

import os
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import draccus
import yaml
from draccus.utils import DecodingError, ParsingError

from lerobot_lara.batch.embodiments import DEFAULT_EMBODIMENT

WEIGHTS = ("share", "per_frame")
STATISTICS = ("dataset", "embodiment")


@dataclass
class VectorMap:
    """Which column, and which of its dimensions, become the policy's state or action.

    Args:
        key: Column of the dataset; None is none, even if the dataset has one.
        dims: Dimensions to take, in this order; None is all of them.
        invert: Dimensions of the dataset's column that are mirrored about the middle of their range, max + min - x:
            for grippers that count the other way round.
    """

    key: str | None
    dims: list[int] | None = None
    invert: list[int] | None = None


@dataclass
class EntryConfig:
    """One dataset of the mixture.

    Args:
        name: For logs, errors and `target`; unique.
        repo_id: Hub id, or the name of a local dataset.
        root: Local folder; relative paths start at the mixture file. None looks where LeRobot does.
        revision: Branch, tag or commit on the Hub.
        weight: See `MixtureConfig.weights`; at least 0, and 0 leaves the entry out.
        episodes: Episodes to use; None is all.
        cameras: Camera key of the dataset -> camera key of the policy. Cameras of the policy that are not named
            here are missing in this dataset: black, and masked. None takes every policy camera from the dataset's
            camera of the same name.
        state: Column of the robot's state; None is observation.state, if the dataset has it.
        action: Column of the actions; None is `action`.
        embodiment: Name of the robot, hand or simulator; entries of one name share the policy's projections, and find
            them in a checkpoint. None is "default", as in a policy trained on a single dataset, or with `action_free`
            the target's.
        frame_gap_s: Seconds between o_t and o_{t+K}; None takes the mixture's.
        language_key: "task" for LeRobot's task, or a text column of the dataset.
        instruction: One instruction for all episodes, instead of `language_key`.
        action_free: Ignore the actions: the entry teaches the latent action model only.
    """

    name: str
    repo_id: str
    root: str | None = None
    revision: str | None = None
    weight: float = 1.0
    episodes: list[int] | None = None
    cameras: dict[str, str] | None = None
    state: VectorMap | None = None
    action: VectorMap | None = None
    embodiment: str | None = None
    frame_gap_s: float | None = None
    language_key: str = "task"
    instruction: str | None = None
    action_free: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise ValueError(
                f"`weight` of entry {self.name!r} is {self.weight}; give a number of at least 0."
            )
        _require_positive(f"`frame_gap_s` of entry {self.name!r}", self.frame_gap_s)
        if self.episodes is not None and (not self.episodes or min(self.episodes) < 0):
            raise ValueError(
                f"`episodes` of entry {self.name!r} is {self.episodes}; give episode numbers from 0, or leave it out."
            )
        if self.cameras is not None and not self.cameras:
            raise ValueError(
                f"`cameras` of entry {self.name!r} is empty; map at least one camera, or leave it out."
            )
        targets = list((self.cameras or {}).values())
        if len(set(targets)) < len(targets):
            raise ValueError(f"`cameras` of entry {self.name!r} maps two cameras to one: {self.cameras}.")


@dataclass
class MixtureConfig:
    """Datasets trained on together, used as `lerobot-train --dataset.repo_id=<file>.yaml`.

    Args:
        entries: The datasets.
        weights: "share": an entry's weight is its share of the samples, relative to the other weights. "per_frame":
            the weight is multiplied by the entry's number of frames (of which samples are made) first, as in Octo
            and OpenVLA.
        target: Entry in whose units and dimensions the policy acts: that of the robot it is for. None is the first
            entry with actions, or the first of all.
        cameras: The policy's camera keys; None takes the target's.
        image_size: [height, width] of all images, in pixels; None takes the target's. Images of other sizes are
            cropped about the center to the aspect ratio and resized.
        frame_gap_s: Seconds between o_t and o_{t+K}; None takes the policy's `frame_gap` frames in every dataset.
        statistics: "dataset": every entry is normalized by its own statistics; "embodiment": by those of all
            entries of its embodiment together, for datasets that share units.
    """

    entries: list[EntryConfig]
    weights: str = "share"
    target: str | None = None
    cameras: list[str] | None = None
    image_size: list[int] | None = None
    frame_gap_s: float | None = None
    statistics: str = "dataset"

    def __post_init__(self) -> None:
        if not self.entries:
            raise ValueError("`entries` is empty: a mixture needs at least one dataset.")
        for name, choices in (("weights", WEIGHTS), ("statistics", STATISTICS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"`{name}` is {getattr(self, name)!r}; it must be one of {choices}.")
        names = [entry.name for entry in self.entries]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"`entries` has the name {doubled[0]!r} twice; give every entry its own.")
        if all(entry.weight == 0 for entry in self.entries):
            raise ValueError("`weight` is 0 in all `entries`; raise at least one.")
        if self.target is not None and self.target not in names:
            raise ValueError(f"`target` is {self.target!r}, which is no entry; there are {names}.")
        if self.target is not None and self[self.target].weight == 0:
            raise ValueError(f"`target` {self.target!r} has weight 0; raise it or name another entry.")
        if self.image_size is not None and (len(self.image_size) != 2 or min(self.image_size) < 1):
            raise ValueError(f"`image_size` is {self.image_size}; give [height, width] in pixels.")
        _require_positive("`frame_gap_s`", self.frame_gap_s)

    def __getitem__(self, name: str) -> EntryConfig:
        return next(entry for entry in self.entries if entry.name == name)

    @property
    def used_entries(self) -> list[EntryConfig]:
        """The entries with a weight above 0."""
        return [entry for entry in self.entries if entry.weight > 0]

    @property
    def target_entry(self) -> EntryConfig:
        """The entry in whose units and dimensions the policy acts."""
        if self.target is not None:
            return self[self.target]
        return next((entry for entry in self.used_entries if not entry.action_free), self.used_entries[0])

    def embodiment_of(self, entry: EntryConfig) -> str:
        """Name of an entry's embodiment."""
        if entry.embodiment is None and entry.action_free:
            return self.target_entry.embodiment or DEFAULT_EMBODIMENT
        return entry.embodiment or DEFAULT_EMBODIMENT

    @property
    def embodiments(self) -> list[str]:
        """Names of the entries' embodiments, the target's first."""
        entries = [self.target_entry, *self.used_entries]
        return list(dict.fromkeys(self.embodiment_of(entry) for entry in entries))


def load_mixture(path: str | Path) -> MixtureConfig:
    """Reads a mixture file.

    Relative `root`s become relative to the file.

    Raises:
        ValueError: The file is missing, is no YAML, or has an unknown key or a bad value; names the file.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"Mixture file {path} does not exist (working directory: {Path.cwd()}).")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"Mixture file {path} is no YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"Mixture file {path} holds {type(content).__name__}; it needs `entries: [...]`.")
    try:
        _reject_unknown_keys(content)
        config = draccus.decode(MixtureConfig, content)
    except (DecodingError, ParsingError, ValueError) as error:
        raise ValueError(f"Mixture file {path}: {_own_error(error) or error}") from error
    for entry in config.entries:
        if entry.root is not None:
            entry.root = os.path.normpath(path.parent / Path(entry.root).expanduser())
    return config


def _own_error(error: BaseException | None) -> BaseException | None:
    """The error of a `__post_init__`, which draccus wraps in those of all levels above; None if it was draccus'."""
    while error is not None and not str(error).startswith("Couldn't instantiate"):
        error = error.__cause__
    return None if error is None else error.__cause__


def _reject_unknown_keys(content: dict[str, Any]) -> None:
    # draccus names a key but not the entry it is in, nor the keys that exist.
    _require_known("the mixture", content, MixtureConfig)
    entries = content.get("entries")
    if not isinstance(entries, list):
        raise ValueError(f"`entries` is {entries!r}; it must be a list of datasets.")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ValueError(f"`entries` holds {entry!r}; every entry has keys such as name and repo_id.")
        label = f"entry {entry.get('name', number)!r}"
        _require_known(label, entry, EntryConfig)
        for name in ("state", "action"):
            if isinstance(entry.get(name), dict):
                _require_known(f"`{name}` of {label}", entry[name], VectorMap)


def _require_known(label: str, content: dict[str, Any], config: type) -> None:
    assert is_dataclass(config)
    known = [f.name for f in fields(config)]
    unknown = sorted(str(key) for key in content if key not in known)
    if unknown:
        raise ValueError(f"Unknown key `{unknown[0]}` in {label}; the keys are {known}.")


def _require_positive(label: str, seconds: float | None) -> None:
    if seconds is not None and not 0 < seconds < float("inf"):
        raise ValueError(f"{label} is {seconds}; give seconds above 0.")
