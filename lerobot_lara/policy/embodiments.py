"""Fits a configuration to a checkpoint whose per-embodiment weights have names."""

import json
import logging
from dataclasses import replace
from typing import Any

from lerobot_lara.batch.embodiments import DEFAULT_EMBODIMENT
from lerobot_lara.batch.keys import ACTION, STATE
from lerobot_lara.policy.checkpoint_files import Checkpoint

logger = logging.getLogger(__name__)


def adapt_embodiments(config: Any, checkpoint: Checkpoint, dataset_meta: Any = None) -> Any:
    """Adds to a configuration the embodiments that training may add, and takes over those it does not name.

    Args:
        config: A `LaraDiTConfig`; stays as it is.
        checkpoint: The checkpoint about to be loaded.
        dataset_meta: Metadata of the data to train on; None to act.

    Returns:
        A configuration with the checkpoint's embodiments and, in training, those of `embodiments` that are new and
        with `grow_embodiments` also `embodiment`. `grow_embodiments` is off in it: it holds for one start.

    Raises:
        ValueError: `embodiments` lacks one of the checkpoint's, or has a new one without training; or the states or
            actions do not fit the checkpoint's width.
    """
    may_grow = config.grow_embodiments and dataset_meta is not None
    names, name = embodiments_to_train(config, checkpoint.config, grow=may_grow)
    # An adapter brings the weights of its new embodiments along.
    _check_names(checkpoint, names, may_be_new=dataset_meta is not None or config.use_peft)
    if dataset_meta is None:
        _warn_of_other_robot(checkpoint, acts_for=name or names[0])
    _check_widths(checkpoint, config, dataset_meta)
    _log_new_rows(checkpoint, names)
    changes = {"embodiments": names, "embodiment": name, "grow_embodiments": False}
    unchanged = all(getattr(config, field) == value for field, value in changes.items())
    return config if unchanged else replace(config, **changes)


def embodiments_to_train(config: Any, saved: dict[str, Any], *, grow: bool) -> tuple[list[str], str | None]:
    """Returns the `embodiments` and the `embodiment` that a policy has after a checkpoint is loaded.

    Args:
        config: A `LaraDiTConfig`.
        saved: The checkpoint's config.json.
        grow: Let a new `embodiment` join the others.
    """
    names, name = config.embodiments, config.embodiment
    if grow:
        return (names if name in (None, *names) else [*names, name]), name
    if name is None and names == [DEFAULT_EMBODIMENT]:
        # A configuration that names none, as that of a new alignment, takes over the checkpoint's.
        return saved.get("embodiments") or names, saved.get("embodiment")
    return names, name


def _warn_of_other_robot(checkpoint: Checkpoint, acts_for: str) -> None:
    saved = checkpoint.config
    trained_for = saved.get("embodiment") or saved["embodiments"][0]
    if acts_for != trained_for:
        logger.warning(
            "The policy acts for %r with the normalization of %r, which is that of %s. Train it for %r "
            "(--policy.path, --policy.embodiment) to have its own.",
            acts_for,
            trained_for,
            checkpoint.path,
            acts_for,
        )


def _log_new_rows(checkpoint: Checkpoint, names: list[str]) -> None:
    known = checkpoint.config["embodiments"]
    if set(names) > set(known):
        rows = {name: row for row, name in enumerate(names)}
        logger.warning(
            "The embodiments of %s keep their weights, bit for bit: rows %s. New, with fresh weights: rows %s.",
            checkpoint.path,
            {name: row for name, row in rows.items() if name in known},
            {name: row for name, row in rows.items() if name not in known},
        )


def _check_names(checkpoint: Checkpoint, wanted: list[str], *, may_be_new: bool) -> None:
    saved = checkpoint.config
    known = saved.get("embodiments")
    if not known:
        raise ValueError(
            f"config.json of {checkpoint.path} names no `embodiments`: it is of another type ({saved.get('type')!r}) "
            "or version. Name a checkpoint of this type."
        )
    new = [name for name in wanted if name not in known]
    if not set(known) <= set(wanted):
        raise ValueError(
            f"`embodiments` is {wanted}, but {checkpoint.path} has weights for {known}, which would be lost. Pass "
            f"--policy.embodiments='{json.dumps([*known, *new])}', or leave it out."
        )
    if new and not may_be_new:
        raise ValueError(
            f"`embodiments` is {wanted}, but {checkpoint.path} cannot act for {new}: it has weights for {known} only. "
            "Train it on data of the new ones first."
        )


def _check_widths(checkpoint: Checkpoint, config: Any, dataset_meta: Any) -> None:
    """States and actions are padded to a width that is fixed when a policy is first trained."""
    saved = checkpoint.config
    saved_features = saved["input_features"] | saved["output_features"]
    shapes = {key: feature.shape for key, feature in config.output_features.items()}
    if dataset_meta is not None:  # `input_features` stay those of the checkpoint
        shapes |= {key: feature["shape"] for key, feature in dataset_meta.features.items()}
    for name, key in (("state", STATE), ("action", ACTION)):
        if key not in saved_features or key not in shapes:
            continue
        field, dims = f"max_{name}_dim", shapes[key][0]
        width = saved.get(field) or saved_features[key]["shape"][0]
        if dims > width:
            raise ValueError(
                f"The robot has {dims} {name} dimensions, but {checkpoint.path} has room for {width} (`{field}` was "
                f"{saved.get(field)}), which cannot grow. Pick `{name}.dims` in a mixture file, or train a new policy "
                f"with --policy.{field}={dims}."
            )
        if getattr(config, f"{name}_dim") != width:
            raise ValueError(
                f"`{field}` is {getattr(config, field)}, but {checkpoint.path} pads to {width} {name} dimensions. Pass "
                f"--policy.{field}={width}."
            )
