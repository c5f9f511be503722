"""Loads a checkpoint into a policy that knows more embodiments than the checkpoint does."""

import json
import logging
from pathlib import Path
from typing import Any

from lerobot.utils.constants import ACTION, OBS_STATE

from lerobot_lara.batch.embodiments import DEFAULT_EMBODIMENT
from lerobot_lara.dit.embodiments import rows_by_name
from lerobot_lara.policy.checkpoint_files import read_config

logger = logging.getLogger(__name__)

# For the type checker: whatever policy follows the mixin in the class statement.
BasePolicy: Any = object


class EmbodimentLoading(BasePolicy):
    """Put before `StrictLoading`: the rows of per-embodiment weights follow their names in `config.embodiments`.

    Args:
        config: The policy's configuration.
        saved_embodiments: Names of the rows in the checkpoint about to be loaded; None if they are the config's.
        **kwargs: The base's.
    """

    def __init__(self, config: Any, *, saved_embodiments: list[str] | None = None, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        # Kept in a checkpoint, it would let a misspelled name in some day.
        config.grow_embodiments = False
        self._saved_embodiments = saved_embodiments or config.embodiments

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, config: Any = None, **kwargs: Any
    ) -> Any:
        """LeRobot's `from_pretrained`; adds rows for new embodiments if `dataset_meta` is given (training).

        New are those of `config.embodiments` that the checkpoint lacks, and with `config.grow_embodiments` also
        `config.embodiment`, which `config.embodiments` then gets.

        Raises:
            ValueError: `config.embodiments` lacks one of the checkpoint's, or has a new one without training; or the
                states or actions do not fit the checkpoint's width.
        """
        if config is not None:
            saved = read_config(pretrained_name_or_path, kwargs.get("revision"))
            dataset_meta = kwargs.get("dataset_meta")
            if config.grow_embodiments and dataset_meta is not None:
                if config.embodiment not in (None, *config.embodiments):
                    config.embodiments = [*config.embodiments, config.embodiment]
            elif config.embodiment is None and config.embodiments == [DEFAULT_EMBODIMENT]:
                # A configuration that names none, as of a new alignment, takes over the checkpoint's.
                config.embodiments = saved.get("embodiments") or config.embodiments
                config.embodiment = saved.get("embodiment")
            # An adapter brings the weights of its new embodiments along.
            may_be_new = dataset_meta is not None or config.use_peft
            _check_names(pretrained_name_or_path, saved, config, may_be_new=may_be_new)
            if dataset_meta is None:
                _warn_of_other_robot(pretrained_name_or_path, saved, config)
            _check_widths(pretrained_name_or_path, saved, config, dataset_meta)
            kwargs["saved_embodiments"] = saved["embodiments"]
        return super().from_pretrained(pretrained_name_or_path, config=config, **kwargs)

    @classmethod
    def _load_as_safetensor(cls, model: Any, model_file: str, map_location: str, strict: bool) -> Any:
        saved, wanted = model._saved_embodiments, model.config.embodiments
        with rows_by_name(model, saved, wanted):
            model = super()._load_as_safetensor(model, model_file, map_location, strict)
        if set(wanted) > set(saved):
            rows = {name: row for row, name in enumerate(wanted)}
            logger.warning(
                "The embodiments of %s keep their weights, bit for bit: rows %s. New, with fresh weights: rows %s.",
                model_file,
                {name: row for name, row in rows.items() if name in saved},
                {name: row for name, row in rows.items() if name not in saved},
            )
        return model


def _warn_of_other_robot(checkpoint: str | Path, saved: dict[str, Any], config: Any) -> None:
    trained_for = saved.get("embodiment") or saved["embodiments"][0]
    acts_for = config.embodiment or config.embodiments[0]
    if acts_for != trained_for:
        logger.warning(
            "The policy acts for %r with the normalization of %r, which is that of %s. Train it for %r "
            "(--policy.path, --policy.embodiment) to have its own.",
            acts_for,
            trained_for,
            checkpoint,
            acts_for,
        )


def _check_names(checkpoint: str | Path, saved: dict[str, Any], config: Any, *, may_be_new: bool) -> None:
    known, wanted = saved.get("embodiments"), config.embodiments
    if not known:
        raise ValueError(
            f"config.json of {checkpoint} names no `embodiments`: it is of another type ({saved.get('type')!r}) or "
            "version."
        )
    new = [name for name in wanted if name not in known]
    if not set(known) <= set(wanted):
        raise ValueError(
            f"`embodiments` is {wanted}, but {checkpoint} has weights for {known}, which would be lost. Pass "
            f"--policy.embodiments='{json.dumps([*known, *new])}', or leave it out."
        )
    if new and not may_be_new:
        raise ValueError(
            f"{checkpoint} cannot act for {new} of `embodiments`: it has weights for {known} only. Train it on data of "
            "the new ones first."
        )


def _check_widths(checkpoint: str | Path, saved: dict[str, Any], config: Any, dataset_meta: Any) -> None:
    """States and actions are padded to a width that is fixed when a policy is first trained."""
    saved_features = saved["input_features"] | saved["output_features"]
    shapes = {key: feature.shape for key, feature in config.output_features.items()}
    if dataset_meta is not None:  # `input_features` stay those of the checkpoint
        shapes |= {key: feature["shape"] for key, feature in dataset_meta.features.items()}
    for name, key in (("state", OBS_STATE), ("action", ACTION)):
        if key not in saved_features or key not in shapes:
            continue
        field, dims = f"max_{name}_dim", shapes[key][0]
        width = saved[field] or saved_features[key]["shape"][0]
        if dims > width:
            raise ValueError(
                f"The robot has {dims} {name} dimensions, but {checkpoint} has room for {width} (`{field}` was "
                f"{saved[field]}), which cannot grow. Pick `{name}.dims` in a mixture file, or train a new policy with "
                f"--policy.{field}={dims}."
            )
        if getattr(config, f"{name}_dim") != width:
            raise ValueError(
                f"`{field}` is {getattr(config, field)}, but {checkpoint} pads to {width} {name} dimensions. Pass "
                f"--policy.{field}={width}."
            )
