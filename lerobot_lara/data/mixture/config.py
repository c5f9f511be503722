"""The mixture file: which datasets are trained on together, how often, and how each is fitted to the policy."""

import os
from collections import Counter
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from lerobot_lara.batch.embodiments import DEFAULT_EMBODIMENT
from lerobot_lara.data.mixture.config_rules import (
    ENTRY_RULES,
    MIXTURE_RULES,
    VECTOR_RULES,
    check_fields,
    raise_together,
)
from lerobot_lara.files.reading import shown
from lerobot_lara.files.user_path import user_path
from lerobot_lara.files.yaml_file import read_yaml

VECTORS = ("state", "action")


@dataclass(frozen=True)
class VectorMap:
    """Which column, and which of its dimensions, become the policy's state or action.

    Args:
        key: Column of the dataset; None ignores the one that the dataset may have.
        dims: Dimensions to take, in this order; None takes all of them.
        invert: Dimensions of the dataset's column that are mirrored about the middle of their range, max + min - x:
            for grippers whose values run the other way.
    """

    key: str | None
    dims: list[int] | None = None
    invert: list[int] | None = None

    def __post_init__(self) -> None:
        check_fields(self, VECTOR_RULES, f" of the column {shown(self.key)}")


@dataclass(frozen=True)
class EntryConfig:
    """One dataset of the mixture.

    Args:
        name: Name in logs, errors and `MixtureConfig.reference`; unique.
        repo_id: Hub id, or the name of a local dataset.
        root: Local folder; a relative path starts at the mixture file. None looks where LeRobot does.
        revision: Branch, tag or commit on the Hub.
        weight: See `MixtureConfig.weights`; at least 0, and 0 leaves the entry out.
        episodes: Episodes to use; None uses all.
        cameras: Camera key of the dataset -> camera key of the policy. A camera of the policy that is not named here
            is missing in this dataset: its images are black and masked. None fills each camera of the policy from the
            dataset's camera of the same name.
        state: Column of the robot's state; None is observation.state, if the dataset has it.
        action: Column of the actions; None is `action`.
        embodiment: Name of the robot, hand or simulator. Entries with the same name share the policy's state and
            action projections, which are found by this name in a checkpoint. None is "default", as in a policy
            trained on a single dataset; for an action-free entry it is the embodiment of the reference dataset.
        frame_gap_s: Seconds between o_t and o_{t+K}; None takes the mixture's.
        language_key: "task" for LeRobot's task, or a text column of the dataset.
        instruction: One instruction for all episodes, instead of `language_key`.
        action_free: Ignore the actions, so that the entry teaches only the latent action model.
        labels: Folder of the dataset's latent labels (`lara label`), for policies that are aligned to labels; a
            relative path starts at the mixture file.
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
    labels: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, ENTRY_RULES, f" of entry {shown(self.name)}")
        if is_mixture(self.repo_id):
            raise ValueError(
                f"`repo_id` of entry {shown(self.name)} is the mixture file {shown(self.repo_id, str)}; it must be a "
                "dataset. List the datasets of that file here."
            )
        mapped = list((self.cameras or {}).values())
        if len(set(mapped)) < len(mapped):
            raise ValueError(
                f"`cameras` of entry {shown(self.name)} is {shown(self.cameras, str)}; it must not map two cameras to "
                "one. Drop one of the two."
            )


@dataclass(frozen=True)
class MixtureConfig:
    """Datasets that are trained on together: the content of `lerobot-train --dataset.repo_id=<file>.yaml`.

    Args:
        entries: The datasets.
        weights: "share": an entry's weight is its share of the samples, relative to the other weights. "per_frame":
            the weight is first multiplied by the entry's number of usable frames, as in Octo and OpenVLA.
        reference: Name of the entry in whose units and dimensions the policy acts, that is, of the dataset of the robot
            that the policy is for. With weight 0 it lends them without being trained on, for pre-training on video
            alone. None is the first entry with actions, or the first entry if none has actions.
        cameras: The policy's camera keys; None takes those of the reference dataset.
        image_size: [height, width] of all images, in pixels; None takes those of the reference dataset's cameras, and
            of its first camera for one that it lacks. Images of another size are cropped about the center to its
            aspect ratio and resized.
        frame_gap_s: Seconds between o_t and o_{t+K}; None takes the policy's `frame_gap` frames in every dataset.
        action_free_share: Share of the samples that the entries without actions get together, in (0, 1): so many of a
            batch are video, and the size of a batch and the time of a step stay as they are. None leaves it to the
            weights.
        statistics: "dataset": every entry is normalized by its own statistics; "embodiment": by those of all entries
            of its embodiment together, for datasets that share units.
        on_broken_video: What happens at a frame that cannot be decoded. "error" stops, and tries some frames of every
            dataset before training; "skip" draws another frame of that dataset, and stops when many are skipped.
    """

    entries: list[EntryConfig]
    weights: str = "share"
    reference: str | None = None
    cameras: list[str] | None = None
    image_size: list[int] | None = None
    frame_gap_s: float | None = None
    action_free_share: float | None = None
    statistics: str = "dataset"
    on_broken_video: str = "error"

    def __post_init__(self) -> None:
        if not self.entries:
            raise ValueError("`entries` is empty; it must hold at least one dataset. Add an entry.")
        check_fields(self, MIXTURE_RULES)
        names = [entry.name for entry in self.entries]
        doubled = [name for name, count in Counter(names).items() if count > 1]
        if doubled:
            raise ValueError(
                f"`entries` has the name {shown(doubled[0])} twice; names must be unique. Give every entry its own."
            )
        if all(entry.weight == 0 for entry in self.entries):
            raise ValueError("`weight` is 0 in all `entries`; it must be above 0 in at least one. Raise one.")
        if self.reference is not None and self.reference not in names:
            raise ValueError(
                f"`reference` is {shown(self.reference)}; it must be the name of an entry, one of {shown(names, str)}. "
                "Correct it."
            )

    def __getitem__(self, name: str) -> EntryConfig:
        """The entry of a name."""
        return next(entry for entry in self.entries if entry.name == name)

    @property
    def used_entries(self) -> list[EntryConfig]:
        """The entries with a weight above 0."""
        return [entry for entry in self.entries if entry.weight > 0]

    @property
    def opened_entries(self) -> list[EntryConfig]:
        """The entries in use, and the reference dataset."""
        reference = self.reference_entry
        return [entry for entry in self.entries if entry.weight > 0 or entry is reference]

    @property
    def reference_entry(self) -> EntryConfig:
        """The entry in whose units and dimensions the policy acts."""
        if self.reference is not None:
            return self[self.reference]
        return next((entry for entry in self.used_entries if not entry.action_free), self.used_entries[0])

    def embodiment_of(self, entry: EntryConfig) -> str:
        """Name of an entry's embodiment."""
        if entry.embodiment is None and entry.action_free:
            return self.reference_entry.embodiment or DEFAULT_EMBODIMENT
        return entry.embodiment or DEFAULT_EMBODIMENT

    @property
    def embodiments(self) -> list[str]:
        """Names of the embodiments of the entries in use, that of the reference dataset first."""
        entries = [self.reference_entry, *self.used_entries]
        return list(dict.fromkeys(self.embodiment_of(entry) for entry in entries))


def is_mixture(repo_id: Any) -> bool:
    """Whether `--dataset.repo_id` names a mixture file."""
    return isinstance(repo_id, str) and repo_id.lower().endswith((".yaml", ".yml"))


def load_mixture(path: str | Path) -> MixtureConfig:
    """Reads a mixture file.

    Args:
        path: The YAML file.

    Returns:
        Its content, in which a relative `root` has become a path from the working directory.

    Raises:
        ValueError: The file is missing, is not YAML, or has an unknown key or a bad value; names the file and the
            field.
    """
    path = user_path(path)
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is {shown(content)}; it must be a mapping with `entries: [...]`.")
    try:
        config = make_mixture(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return replace(config, entries=[_from_folder(entry, path.parent) for entry in config.entries])


def make_mixture(content: dict[str, Any]) -> MixtureConfig:
    """Makes the mixture that the content of a mixture file describes; a `root` stays as it is written.

    Raises:
        ValueError: A key is unknown or missing, or a value is wrong; names all keys, or all values, at once.
    """
    _require_known(content)
    return MixtureConfig(**content | {"entries": _read_entries(content["entries"])})


def require_roots(mixture: MixtureConfig, path: str | Path) -> None:
    """Checks that the local folders of a mixture file exist, as LeRobot would fill a missing one from the Hub.

    Raises:
        ValueError: The `root` of an entry in use does not exist.
    """
    for entry in mixture.used_entries:
        if entry.root is not None and not Path(entry.root).is_dir():
            raise ValueError(
                f"Mixture file {path}: `root` of entry {entry.name!r} is {entry.root}, which does not exist. Relative "
                "paths start at the mixture file."
            )


def _from_folder(entry: EntryConfig, folder: Path) -> EntryConfig:
    """The entry with relative paths taken from the folder of its mixture file."""
    paths: dict[str, Any] = {name: getattr(entry, name) for name in ("root", "labels")}
    paths = {
        name: os.path.normpath(folder / user_path(path)) for name, path in paths.items() if path is not None
    }
    return replace(entry, **paths)


def _read_entries(contents: list[dict[str, Any]]) -> list[EntryConfig]:
    entries, problems = [], []
    for content in contents:
        vectors = {}
        for name in VECTORS:
            try:
                vectors[name] = None if content.get(name) is None else VectorMap(**content[name])
            except ValueError as error:
                problems.append(f"`{name}` of entry {shown(content['name'])}: {error}")
        try:
            entries.append(EntryConfig(**content | vectors))
        except ValueError as error:
            problems.append(str(error))
    raise_together(problems)
    return entries


def _require_known(content: dict[str, Any]) -> None:
    """Refuses keys that are unknown or missing, all of them at once."""
    problems = _key_problems("the mixture", content, MixtureConfig)
    entries = content.get("entries")
    if not isinstance(entries, list):
        problems.append(f"`entries` is {shown(entries)}; it must be a list of datasets.")
        entries = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            problems.append(
                f"`entries` holds {shown(entry)}; each entry must be a mapping with keys such as name and repo_id."
            )
            continue
        label = f"entry {shown(entry.get('name', number))}"
        problems += _key_problems(label, entry, EntryConfig)
        for name in VECTORS:
            if isinstance(entry.get(name), dict):
                problems += _key_problems(f"`{name}` of {label}", entry[name], VectorMap)
            elif entry.get(name) is not None:
                problems.append(
                    f"`{name}` of {label} is {shown(entry[name])}; it must be a mapping with `key`."
                )
    raise_together(problems)


def _key_problems(label: str, content: dict[str, Any], config: type) -> list[str]:
    assert is_dataclass(config)
    known = [field.name for field in fields(config)]
    required = [field.name for field in fields(config) if field.default is MISSING]
    problems = [
        f"`{shown(key, str)}` is an unknown key in {label}; it must be one of {known}."
        for key in content
        if key not in known
    ]
    return problems + [
        f"`{name}` is missing in {label}. Add it."
        for name in required
        if name not in content and name != "entries"
    ]
