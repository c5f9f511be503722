"""Continues a training that was killed from its newest checkpoint that is whole.

LeRobot writes the files of a checkpoint one after the other into their final place, and then removes and makes again
the link `last`: a killed training may leave a checkpoint that lacks files, a file that is cut off, or no `last`.
"""

import json
import os
import shutil
from pathlib import Path

from safetensors import SafetensorError, safe_open

_CONFIG = "pretrained_model/train_config.json"
# What LeRobot writes for every training, besides what a policy adds.
_FILES = (
    _CONFIG,
    "pretrained_model/config.json",
    "pretrained_model/model.safetensors",
    "training_state/optimizer_param_groups.json",
    "training_state/optimizer_state.safetensors",
    "training_state/rng_state.safetensors",
    "training_state/training_step.json",
)
# Written last, if the training has a scheduler; without one there is no telling, and the state before it must do.
_SCHEDULER = "training_state/scheduler_state.json"


def continue_training(run: Path) -> tuple[str, ...] | None:
    """Returns the command that continues a training.

    Checkpoints behind the newest whole one are removed, and `last` points at that one, so that what is left is what
    LeRobot leaves when it saves.

    Args:
        run: Output folder of a training that no longer runs.

    Returns:
        Program and arguments, or None if there is nothing to continue from.
    """
    steps = _steps(run)
    whole = next((folder for folder in steps if is_whole(folder)), None)
    if whole is None:
        return None
    for torn in steps[: steps.index(whole)]:
        shutil.rmtree(torn)
    link = whole.with_name("last")
    new = link.with_name("last.partial")
    new.unlink(missing_ok=True)
    new.symlink_to(whole.name)
    os.replace(new, link)
    return ("lerobot-train", f"--config_path={whole / _CONFIG}", "--resume=true")


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint of `lerobot-train` has all its files, and none of them is cut off.

    Args:
        checkpoint: The folder of a step.
    """
    if not all((checkpoint / name).is_file() for name in _FILES):
        return False
    try:
        config = json.loads((checkpoint / _CONFIG).read_bytes())
        if config.get("scheduler") is not None and not (checkpoint / _SCHEDULER).is_file():
            return False
        for path in checkpoint.rglob("*.json"):
            json.loads(path.read_bytes())
        for path in checkpoint.rglob("*.safetensors"):
            with safe_open(path, "pt"):  # compares the file's size with its header
                pass
    except (OSError, ValueError, AttributeError, SafetensorError):
        return False
    return not any(checkpoint.rglob("*.partial"))


def _steps(run: Path) -> list[Path]:
    """The checkpoints, the newest first."""
    folder = run / "checkpoints"
    found = [path for path in folder.glob("*") if path.name.isdecimal() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name), reverse=True)
