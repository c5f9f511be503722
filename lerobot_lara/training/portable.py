"""What only one machine knows: paths that have no place in a checkpoint that travels."""

import copy
import logging
from dataclasses import fields
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def is_local(name: str | Path | None) -> bool:
    """Whether a name is that of a file or folder on this machine, not a Hub id or preset."""
    return name is not None and (is_path(name) or Path(name).exists())


def is_path(name: str | Path) -> bool:
    """Whether a name can only be a path: a Hub id neither begins with a slash nor with a dot or tilde."""
    return Path(name).is_absolute() or str(name).startswith((".", "~"))


def published(config: Any) -> Any:
    """A copy of a policy's configuration for the Hub, in which local folders keep their last name only.

    Whoever loads such a policy has to name the folder, for example of an encoder, which is logged here.

    Args:
        config: A dataclass; its `portable` form is taken if it has one.
    """
    copied = copy.copy(config.portable() if hasattr(config, "portable") else config)
    for field in fields(copied):
        value = getattr(copied, field.name)
        if isinstance(value, str | Path) and is_path(value):
            logger.warning(
                "`%s` is the local path %s, which is not published: who loads the policy needs it too, and passes "
                "--policy.%s=<path>. Prefer a Hub id.",
                field.name,
                value,
                field.name,
            )
            setattr(copied, field.name, Path(value).name)
    return copied


def published_run(cfg: Any) -> Any:
    """A copy of LeRobot's record of a run (`TrainPipelineConfig`) without paths of this machine.

    The policy's part is its `published` configuration; local datasets and the output folder keep their last name.

    Args:
        cfg: The record; stays as it is.
    """
    copied = copy.copy(cfg)
    copied.policy = published(cfg.policy)
    copied.checkpoint_path = None
    copied.dataset = copy.copy(cfg.dataset)
    copied.dataset.root = None
    if is_path(cfg.dataset.repo_id):
        copied.dataset.repo_id = Path(cfg.dataset.repo_id).name
    if cfg.output_dir is not None:
        copied.output_dir = Path(Path(cfg.output_dir).name)
    return copied
