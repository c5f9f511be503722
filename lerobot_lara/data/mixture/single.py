"""One dataset as a mixture of one entry, so that every dataset is read, checked and normalized in the same way."""

import logging
from collections.abc import Mapping
from typing import Any

from lerobot.utils.constants import OBS_STATE

from lerobot_lara.data.mixture.config import EntryConfig, MixtureConfig, VectorMap, is_mixture
from lerobot_lara.data.mixture.sources import Source, color_cameras, open_meta, open_sources
from lerobot_lara.files.user_path import user_path

logger = logging.getLogger(__name__)


def single_dataset(
    repo_id: str,
    *,
    name: str | None = None,
    root: str | None = None,
    revision: str | None = None,
    episodes: list[int] | None = None,
    embodiment: str | None = None,
    rename_map: Mapping[str, str] | None = None,
    labels: str | None = None,
) -> MixtureConfig:
    """Returns a mixture of one entry.

    Args:
        repo_id: Hub id, or the name of a local dataset.
        name: Name in logs and errors; None is `repo_id`.
        root: Local folder; None looks where LeRobot does.
        revision: Branch, tag or commit on the Hub.
        episodes: Episodes to use; None uses all.
        embodiment: Name of the robot; None is "default".
        rename_map: LeRobot's `rename_map`: camera or state column of the dataset -> key of the policy. The samples
            then have the policy's keys, masks and statistics included.
        labels: Folder of the dataset's latent labels.

    Raises:
        ValueError: `episodes` is empty, or `rename_map` gives a camera a name that it renames too, or two cameras one
            name; or names are given and the dataset cannot be opened.
    """
    folder = None if root is None else str(root)
    entry = EntryConfig(
        name=repo_id if name is None else name,
        repo_id=repo_id,
        root=folder,
        revision=revision,
        episodes=episodes,
        embodiment=embodiment,
        labels=labels,
    )
    if not rename_map:
        return MixtureConfig([entry])
    return MixtureConfig([_renamed(entry, rename_map)])


def open_single(dataset: str, *, camera: str | None) -> Source:
    """Opens a dataset that a command of this package names, for its video alone.

    Args:
        dataset: Folder of a LeRobotDataset, or its Hub id.
        camera: Camera of the dataset; None opens all of them.

    Raises:
        ValueError: There is no such dataset or camera, or it is a mixture file.
    """
    folder = user_path(dataset)
    root = str(folder) if folder.is_dir() else None
    # LeRobot would fill a folder without metadata from the Hub.
    if root is not None and not (folder / "meta" / "info.json").is_file():
        raise ValueError(
            f"{dataset} is not a LeRobotDataset: it has no meta/info.json. Pass the folder of a LeRobotDataset, or a "
            "Hub id."
        )
    if is_mixture(dataset):
        raise ValueError(
            f"`dataset` is the mixture file {dataset}; it must be a single LeRobotDataset. Name the datasets of the "
            "mixture one by one."
        )
    name = folder.resolve().name
    entry = EntryConfig(
        name=name if root else dataset,
        repo_id=f"local/{name}" if root else dataset,
        root=root,
        cameras=None if camera is None else {camera: camera},
        action_free=True,
    )
    return open_sources(MixtureConfig([entry]), use_actions=False)[0]


def _renamed(entry: EntryConfig, rename_map: Mapping[str, str]) -> EntryConfig:
    """The entry with its cameras and state under the names of `rename_map`."""
    twice = sorted(set(rename_map) & set(rename_map.values()))
    if twice:
        # LeRobot's preprocessor renames again what the samples already name as the policy does.
        raise ValueError(
            f"`rename_map` is {dict(rename_map)}; no key may be both an old and a new name, as {twice[0]!r} is. Map "
            "the `cameras` in a mixture file instead, and pass --rename_map to lerobot-eval only."
        )
    meta = open_meta(entry)
    unknown = sorted(set(rename_map) - set(meta.features))
    if unknown:
        logger.warning("`rename_map` renames %s, which %s does not have.", unknown, entry.name)
    changes: dict[str, Any] = {}
    cameras = color_cameras(meta)
    if set(rename_map) & set(cameras):
        changes["cameras"] = {key: rename_map.get(key, key) for key in cameras}
    states = [key for key, name in rename_map.items() if name == OBS_STATE and key in meta.features]
    if states:
        changes["state"] = VectorMap(states[0])
    return EntryConfig(**vars(entry) | changes)
