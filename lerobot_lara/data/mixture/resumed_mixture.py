"""Whether the data of a resumed run is still what its checkpoint recorded."""

import json
import logging
from typing import Any

from lerobot.configs.train import TrainPipelineConfig

from lerobot_lara.files.reading import read_json_object, shown
from lerobot_lara.policy.checkpoint_files import Checkpoint
from lerobot_lara.policy.mixture_record import MIXTURE_FILE

logger = logging.getLogger(__name__)

_REMEDY = "Resume from another checkpoint, or start a new run from this one with --policy.path."


def check_resumed(cfg: TrainPipelineConfig, mixture: dict[str, Any], *, strict: bool = True) -> None:
    """Compares the mixture with the one that the checkpoint of a resumed run recorded.

    Args:
        cfg: LeRobot's configuration of the run.
        mixture: The record of the mixture as it is now.
        strict: Raise for a change. False warns, as for a single dataset, which LeRobot lets grow between runs.

    Raises:
        ValueError: The mixture or one of its datasets has changed.
    """
    assert cfg.policy is not None
    path = cfg.policy.pretrained_path
    recorded = _recorded_mixture(str(path), cfg.policy.pretrained_revision)
    if recorded is None:
        logger.log(
            logging.WARNING if strict else logging.INFO,
            "%s has no %s, so it is not known whether the data has changed since.",
            path,
            MIXTURE_FILE,
        )
        return
    if recorded == json.loads(json.dumps(mixture)):
        return
    difference = _difference(recorded, mixture)
    if strict:
        raise ValueError(
            f"{cfg.dataset.repo_id}: the mixture or its datasets have changed since {path} was written: "
            f"{difference}. The order of the data could not be resumed. Restore the mixture, or "
            "start a new run from the checkpoint with --policy.path."
        )
    logger.warning(
        "%s has changed since %s was written: %s. The order of its frames is not resumed.",
        cfg.dataset.repo_id,
        path,
        difference,
    )


def _recorded_mixture(path: str, revision: str | None) -> dict[str, Any] | None:
    """The `mixture.json` of a checkpoint; None if it has none, as after training on a single dataset."""
    file = Checkpoint(path, revision).file(MIXTURE_FILE)
    if file is None:
        return None
    recorded = read_json_object(file, remedy=_REMEDY)
    entries = recorded.get("entries")
    named = isinstance(entries, list) and all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in entries
    )
    if not named:
        raise ValueError(
            f"{file}: `entries` is {shown(entries)}; it must be a list of datasets with names. {_REMEDY}"
        )
    return recorded


def _difference(recorded: dict[str, Any], mixture: dict[str, Any]) -> str:
    """Describes the first difference between two records of a mixture."""
    old = {entry["name"]: entry for entry in recorded["entries"]}
    new = {entry["name"]: entry for entry in mixture["entries"]}
    if list(old) != list(new):
        return f"the entries {list(old)} are now {list(new)}"
    for name, entry in new.items():
        changed = [key for key, value in entry.items() if old[name].get(key) != value]
        if changed:
            key = changed[0]
            return f"`{key}` of entry {name!r} was {old[name].get(key)} and is now {entry[key]}"
        gone = sorted(old[name].keys() - entry.keys())
        if gone:
            return f"`{gone[0]}` of entry {name!r} was {old[name][gone[0]]} and is now gone"
    changed = [key for key in {**mixture, **recorded} if recorded.get(key) != mixture.get(key)]
    return f"`{changed[0]}` was {recorded.get(changed[0])} and is now {mixture.get(changed[0])}"
