"""Reads the configuration of a checkpoint, whoever wrote it."""

from typing import Any

from draccus.utils import DecodingError, ParsingError
from lerobot.configs import PreTrainedConfig

from lerobot_lara.policy.checkpoint_files import Checkpoint
from lerobot_lara.training.validation import require_simple_values

# What draccus and LeRobot raise for values of another type or nesting than they expect.
UNEXPECTED = (DecodingError, ParsingError, ValueError, TypeError, AttributeError, KeyError, RecursionError)


def read_config(checkpoint: Checkpoint, **kwargs: Any) -> PreTrainedConfig:
    """Reads the configuration of a checkpoint.

    Args:
        checkpoint: The checkpoint.
        **kwargs: Arguments of LeRobot's `PreTrainedConfig.from_pretrained`, such as `revision`.

    Raises:
        ValueError: config.json is missing, damaged, or has a field or value that this version does not know; names the
            checkpoint and the field.
    """
    saved_type = checkpoint.config.get("type")
    if not isinstance(saved_type, str) or saved_type not in PreTrainedConfig.get_known_choices():
        raise ValueError(
            f"config.json of {checkpoint.path} has the `type` {saved_type!r}; it must be a type of policy that is "
            "installed, such as 'lara'. Restore the file, or name the folder `pretrained_model` of a checkpoint."
        )
    try:
        config = PreTrainedConfig.from_pretrained(checkpoint.path, **kwargs)
        # What draccus converts, such as a list to text, would still be read as it is from `checkpoint.config`.
        if type(config).__module__.startswith("lerobot_lara"):
            require_simple_values(type(config), checkpoint.config)
    except UNEXPECTED as error:
        raise ValueError(
            f"config.json of {checkpoint.path} does not fit type {saved_type!r}: {_cause(error)} It was written by "
            "another version of lerobot_lara, or edited. Load it with that version, or restore the file."
        ) from error
    return config


def _cause(error: BaseException) -> str:
    """The innermost message: draccus wraps that of a `__post_init__` at every level."""
    while error.__cause__ is not None and str(error).startswith("Couldn't instantiate"):
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    return text if text.endswith(".") else f"{text}."
