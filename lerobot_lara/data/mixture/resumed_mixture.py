"""Whether the data of a resumed run is still what its checkpoint recorded."""

import json
import logging
from typing import Any

from lerobot.configs.train import TrainPipelineConfig

from lerobot_lara.policy.checkpoint_files import Checkpoint
from lerobot_lara.policy.mixture_record import MIXTURE_FILE

logger = logging.getLogger(__name__)


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
    return None if file is None else json.loads(file.read_text())


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
    changed = [key for key in mixture if recorded.get(key) != mixture[key]]
    return f"`{changed[0]}` was {recorded.get(changed[0])} and is now {mixture[changed[0]]}"
