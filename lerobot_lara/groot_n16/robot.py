"""How a policy of type `groot_n16` encodes its robot's states and actions, and which cameras it looks through."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lerobot.datasets import LeRobotDataset
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE

from lerobot_lara.groot_n16.configuration_groot_n16 import GrootN16Config
from lerobot_lara.groot_n16.normalization import (
    ActionEncoding,
    JointGroup,
    StateEncoding,
    relative_statistics,
)
from lerobot_lara.groot_n16.release import Release
from lerobot_lara.policy.checkpoint_files import Checkpoint

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Robot:
    """What the processors have to know of a robot.

    Args:
        state: Encoding of states; None without a state.
        action: Encoding of actions.
        cameras: Keys of the cameras that the model sees, in order.
    """

    state: StateEncoding | None
    action: ActionEncoding
    cameras: list[str]


def make_robot(config: GrootN16Config, stats: Mapping[str, Any] | None, meta: Any = None) -> Robot:
    """Takes a robot from the release that the policy starts from, or else from the statistics of its dataset.

    Args:
        config: The policy's configuration, with features.
        stats: Statistics of the dataset, by feature key.
        meta: Metadata of the dataset, for relative actions.

    Raises:
        ValueError: Neither knows the robot, or they do not fit the features.
    """
    if config.base_model_path is not None:
        release = Release(Checkpoint(config.base_model_path, config.base_model_revision))
        if release.knows(config.embodiment_tag):
            logger.info(
                "Normalizing with the statistics that %s has of %r.",
                config.base_model_path,
                config.embodiment_tag,
            )
            return _known_robot(config, release)
    return _robot_of_dataset(config, stats or {}, meta)


def resolve_cameras(config: GrootN16Config, release: Release | None) -> list[str]:
    """Keys of the cameras that the model sees, in order.

    Args:
        config: The policy's configuration, with features.
        release: NVIDIA's files, if the policy starts from them.

    Raises:
        ValueError: The release names cameras of the robot that the dataset does not have.
    """
    known = config.image_features
    if config.cameras or release is None or not release.knows(config.embodiment_tag):
        return config.cameras or list(known)
    names = release.cameras(config.embodiment_tag)
    keys = [next((key for key in (f"{OBS_IMAGES}.{name}", name) if key in known), None) for name in names]
    if None in keys:
        raise ValueError(
            f"`cameras` is []; it must name one key for each of {names}, in which order the release was trained to see "
            f"{config.embodiment_tag!r}, as the dataset has other names: {sorted(known)}. Pass "
            "--policy.cameras='[...]'."
        )
    return [key for key in keys if key is not None]


def _known_robot(config: GrootN16Config, release: Release) -> Robot:
    tag = config.embodiment_tag
    states, actions = release.state_groups(tag), release.action_groups(tag)
    for name, key, groups, size in (
        ("state", OBS_STATE, states, config.state_dim),
        ("action", ACTION, actions, config.action_dim),
    ):
        expected = sum(group.size for group in groups)
        if size != expected:
            parts = ", ".join(f"{group.name} ({group.size})" for group in groups)
            raise ValueError(
                f"`{key}` has {size} dimensions; it must have {expected} for --policy.embodiment_tag={tag}, whose "
                f"{name} is {parts}. Arrange the dataset so, or pass --policy.embodiment_tag=new_embodiment to use the "
                "statistics of your dataset."
            )
    if config.chunk_size > (horizon := release.horizon(tag)):
        raise ValueError(
            f"`chunk_size` is {config.chunk_size}; it must be at most {horizon} for --policy.embodiment_tag={tag}, as "
            f"in its pretraining. Pass --policy.chunk_size={horizon}."
        )
    state = StateEncoding.of(states)
    return _checked(
        config, state, ActionEncoding.of(actions, config.chunk_size), resolve_cameras(config, release)
    )


def _robot_of_dataset(config: GrootN16Config, stats: Mapping[str, Any], meta: Any) -> Robot:
    state = None
    if config.robot_state_feature is not None:
        state = StateEncoding.of([JointGroup("state", "range", _range(config, stats, OBS_STATE))])
    actions = _range(config, stats, ACTION)
    if not config.relative_actions:
        groups = [JointGroup("action", "range", actions)]
    else:
        relative = _relative_range(config, meta)
        absolute = _absolute_dims(config, meta)
        groups = [
            JointGroup(f"action {dim}", "range", _select(actions, dim))
            if dim in absolute
            else JointGroup(f"action {dim}", "range", _select(relative, dim), relative_to=dim)
            for dim in range(config.action_dim)
        ]
    return _checked(
        config, state, ActionEncoding.of(groups, config.chunk_size), resolve_cameras(config, None)
    )


def _checked(
    config: GrootN16Config, state: StateEncoding | None, action: ActionEncoding, cameras: list[str]
) -> Robot:
    width = 0 if state is None else len(state.index)
    if width > config.max_state_dim:
        raise ValueError(
            f"`max_state_dim` is {config.max_state_dim}; it must be at least {width}, the width of the encoded state. "
            "Pass another --policy.embodiment_tag, or fewer dimensions."
        )
    return Robot(state, action, cameras)


def _range(config: GrootN16Config, stats: Mapping[str, Any], key: str) -> dict[str, Any]:
    names = ("q01", "q99") if config.use_percentiles else ("min", "max")
    found = stats.get(key) or {}
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(
            f"The statistics lack {' and '.join(missing)} of `{key}`, and the release has none of "
            f"{config.embodiment_tag!r}, so it cannot be normalized. Train on a dataset with statistics first, or pass "
            "the --policy.embodiment_tag of a robot that the release knows."
        )
    return {
        name: torch.as_tensor(found[one]).float().reshape(-1)
        for name, one in zip(("min", "max"), names, strict=True)
    }


def _relative_range(config: GrootN16Config, meta: Any) -> dict[str, Any]:
    """Statistics of relative actions, from all frames of the dataset."""
    if config.state_dim < config.action_dim:
        raise ValueError(
            f"`relative_actions` is true; it must be false where states have {config.state_dim} dimensions and actions "
            f"{config.action_dim}, as actions count from the same dimension of the state. Pass "
            "--policy.relative_actions=false."
        )
    root = getattr(meta, "root", None)
    if root is None:
        raise ValueError(
            "`relative_actions` is true; it must be false without a single dataset, whose frames its statistics are "
            "taken from. Pass --policy.relative_actions=false."
        )
    dataset = LeRobotDataset(
        meta.repo_id, root=root, revision=getattr(meta, "revision", None), download_videos=False
    )
    columns = dataset.hf_dataset.select_columns([OBS_STATE, ACTION, "episode_index"]).with_format("torch")[:]
    states, actions = columns[OBS_STATE].float(), columns[ACTION].float()
    found = relative_statistics(
        states[:, : config.action_dim], actions, columns["episode_index"].reshape(-1), config.chunk_size
    )
    low, high = ("q01", "q99") if config.use_percentiles else ("min", "max")
    return {"min": torch.tensor(found[low]), "max": torch.tensor(found[high])}


def _absolute_dims(config: GrootN16Config, meta: Any) -> set[int]:
    if not config.relative_exclude_joints:
        return set()
    names = (getattr(meta, "features", {}).get(ACTION) or {}).get("names") or []
    if isinstance(names, Mapping):
        names = [name for part in names.values() for name in part]
    words = [word.lower() for word in config.relative_exclude_joints]
    dims = {dim for dim, name in enumerate(names) if any(word in str(name).lower() for word in words)}
    if not dims:
        raise ValueError(
            f"`relative_exclude_joints` is {config.relative_exclude_joints}; it must be names, or parts of names, of "
            f"actions in the dataset: {list(names)}. Pass --policy.relative_exclude_joints='[...]'."
        )
    return dims


def _select(statistics: Mapping[str, Any], dim: int) -> dict[str, Any]:
    return {name: value[..., dim : dim + 1] for name, value in statistics.items()}
