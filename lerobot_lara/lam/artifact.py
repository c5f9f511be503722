"""A latent action model on disk: a `lara_lam` policy directory, read and written without LeRobot.

`config.json` holds the settings (and what LeRobot adds), `model.safetensors` the weights under `model.`.
"""

import hashlib
from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from lerobot_lara.files.atomic import replaced_file, write_json
from lerobot_lara.files.checkpoint_reading import WeightHeader, read_json_object
from lerobot_lara.lam.settings import LatentActionSettings
from lerobot_lara.training.finite import require_finite

TYPE = "lara_lam"
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
PREFIX = "model."
SETTINGS = frozenset(field.name for field in fields(LatentActionSettings))
# Fields of config.json that belong to LeRobot's policy around the model, not to the model. The policy's configuration
# fills this in, so that it holds what the installed LeRobot has.
policy_fields: set[str] = {"type"}


def read(
    path_or_repo_id: str | Path, *, revision: str | None = None, subfolder: str | None = None, **download: Any
) -> tuple[dict[str, Any], dict[str, Tensor], WeightHeader]:
    """Reads settings and weights.

    Args:
        path_or_repo_id: Local directory or Hub id.
        revision: Branch, tag or commit on the Hub.
        subfolder: Folder within.
        **download: Further arguments of `hf_hub_download`.

    Returns:
        The model's settings, its state dict, and the header of the weight file.

    Raises:
        ValueError: If there is nothing to read, it is not a latent action model, or it is damaged.
    """
    config_file = _locate(path_or_repo_id, CONFIG_FILE, revision, subfolder, **download)
    config = read_json_object(config_file)
    if config.get("type") != TYPE:
        hint = " Its latent action model is in the folder `lam`." if config.get("type") == "lara" else ""
        raise ValueError(
            f"{config_file.parent} is of type {config.get('type')!r}, but a latent action model (type "
            f"{TYPE!r}) is needed.{hint} Train one with `lerobot-train --policy.type={TYPE}`."
        )
    weights_file = _locate(path_or_repo_id, WEIGHTS_FILE, revision, subfolder, **download)
    header = WeightHeader.read(weights_file)
    header.check_sizes(config)
    unknown = sorted(config.keys() - SETTINGS - policy_fields)
    if unknown:
        raise ValueError(
            f"{config_file}: Unknown field(s) {unknown}. It was edited, or written by another version of "
            "lerobot_lara or LeRobot. Load it with that version, or remove them."
        )
    weights = load_file(weights_file)
    require_finite(weights, f"Weights in {weights_file}", "Use an earlier checkpoint.")
    settings = {key: value for key, value in config.items() if key in SETTINGS}
    return settings, {key.removeprefix(PREFIX): value for key, value in weights.items()}, header


def digest(path_or_repo_id: str | Path, *, revision: str | None = None, subfolder: str | None = None) -> str:
    """Returns a fingerprint of the weights (SHA-256 of the file), which tells whether two models are the same.

    Raises:
        ValueError: There is no weight file.
    """
    file = _locate(path_or_repo_id, WEIGHTS_FILE, revision, subfolder)
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def write(directory: str | Path, settings: dict[str, Any], state_dict: dict[str, Tensor]) -> None:
    """Writes settings and weights as LeRobot's `PreTrainedConfig.from_pretrained` reads them."""
    directory = Path(directory)
    remedy = "Continue from an earlier checkpoint, with a lower --policy.optimizer_lr."
    require_finite(state_dict, "Weights of the latent action model to be saved", remedy)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / CONFIG_FILE, {"type": TYPE, **settings}, indent=4)
    tensors = {PREFIX + key: value.detach().cpu().contiguous() for key, value in state_dict.items()}
    with replaced_file(directory / WEIGHTS_FILE) as partial:
        save_file(tensors, partial, metadata={"format": "pt"})


def _locate(
    path_or_repo_id: str | Path, file: str, revision: str | None, subfolder: str | None, **download: Any
) -> Path:
    directory = Path(path_or_repo_id) / (subfolder or "")
    if directory.is_dir():
        if (directory / file).is_file():
            return directory / file
        nested = (directory / name for name in ("pretrained_model", "checkpoints/last/pretrained_model"))
        found = next((folder for folder in nested if (folder / file).is_file()), None)
        hint = "" if found is None else f" Did you mean {found}?"
        raise ValueError(f"There is no {file} in {directory}, so it holds no latent action model.{hint}")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(
            hf_hub_download(str(path_or_repo_id), file, revision=revision, subfolder=subfolder, **download)
        )
    except (OSError, HFValidationError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"No latent action model at {str(path_or_repo_id)!r}: it is neither a local directory nor a Hub "
            f"repository that can be read ({reason})"
        ) from error
