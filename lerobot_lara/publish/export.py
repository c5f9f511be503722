"""Takes a checkpoint of an aligned policy apart: the plain base policy, or the latent action model."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import make_pre_post_processors

from lerobot_lara.alignment.attachment import ALIGNMENT_FILE, LAM_FOLDER
from lerobot_lara.alignment.config import LatentAlignmentConfig
from lerobot_lara.files.atomic import sync_files, sync_folder, write_json
from lerobot_lara.files.checkpoint_reading import read_json_object
from lerobot_lara.files.lock import only_run
from lerobot_lara.lam.configuration_lara_lam import LaraLAMConfig
from lerobot_lara.lam.latent_action_model import LatentActionModel
from lerobot_lara.lam.modeling_lara_lam import LaraLAMPolicy
from lerobot_lara.policy.checkpoint_files import Checkpoint, download_checkpoint
from lerobot_lara.policy.processor_files import check_processors
from lerobot_lara.policy.read_config import read_config

CONFIG_FILE = "config.json"
ADAPTER_FILE = "adapter_config.json"
# The run's own record names the aligned type, with which a plain policy cannot be resumed.
NOT_OF_THE_BASE = {CONFIG_FILE, ALIGNMENT_FILE, "train_config.json"}


def export_base(checkpoint: str | Path, directory: str | Path) -> None:
    """Writes a checkpoint of an aligned policy as one of its plain base, which acts the same.

    Args:
        checkpoint: Folder or Hub id of a `lara` policy, or another aligned type.
        directory: Created; must not exist or be empty.

    Raises:
        ValueError: `checkpoint` is no aligned policy, or `directory` is in use.
    """
    config, directory = _read(checkpoint), _unused(directory)
    source = download_checkpoint(checkpoint)
    if (source / ADAPTER_FILE).is_file():
        raise ValueError(
            f"`checkpoint` {checkpoint} is a low-rank adapter; it must be a whole policy. Merge it into its base "
            "first, with `merge_and_unload` of peft."
        )
    check_processors(Checkpoint(str(source)))
    saved = read_json_object(source / CONFIG_FILE)
    base = PreTrainedConfig.get_choice_class(config.base_type())
    known = {entry.name for entry in fields(base)}
    plain = {name: value for name, value in saved.items() if name in known} | {"type": config.base_type()}
    with _new_checkpoint(directory) as new:
        for file in sorted([*source.glob("*.json"), *source.glob("*.safetensors")]):
            if file.name not in NOT_OF_THE_BASE:
                shutil.copyfile(file, new / file.name)
        write_json(new / CONFIG_FILE, plain, indent=4)


def export_lam(checkpoint: str | Path, directory: str | Path) -> None:
    """Writes the aligned latent action model of a checkpoint as a `lara_lam` policy directory.

    Args:
        checkpoint: Folder or Hub id of a `lara` policy, or another aligned type.
        directory: Created; must not exist or be empty.

    Raises:
        ValueError: `checkpoint` is no aligned policy, or `directory` is in use.
    """
    config, directory = _read(checkpoint), _unused(directory)
    lam = LatentActionModel.from_pretrained(checkpoint, subfolder=LAM_FOLDER)
    camera = config.lam_camera or next(iter(config.image_features))
    lam_config = LaraLAMConfig(
        **vars(lam.settings),
        camera=camera,
        input_features={camera: config.image_features[camera]},
        output_features={},
        device=config.device,
        push_to_hub=False,
    )
    policy = LaraLAMPolicy(lam_config)
    policy.model.load_state_dict(lam.state_dict())
    with _new_checkpoint(directory) as new:
        policy.save_pretrained(new)
        for pipeline in make_pre_post_processors(lam_config):
            pipeline.save_pretrained(new)


def _read(checkpoint: str | Path) -> LatentAlignmentConfig:
    try:
        config = read_config(Checkpoint(str(checkpoint)))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`checkpoint` {checkpoint} is no policy checkpoint: {error} Name its folder `pretrained_model`, or a Hub "
            "id."
        ) from error
    if not isinstance(config, LatentAlignmentConfig):
        raise ValueError(
            f"`checkpoint` {checkpoint} is of type {config.type!r}; it must be of an aligned type, such as 'lara'. "
            "There is nothing to take apart."
        )
    return config


def _unused(directory: str | Path) -> Path:
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(
            f"`directory` {directory} exists already; it must be new or empty. Name a new folder, or remove it first."
        )
    return directory


@contextmanager
def _new_checkpoint(directory: Path) -> Iterator[Path]:
    """Yields a folder beside the directory, which becomes the directory once it is complete."""
    new = directory.with_name(f"{directory.name}.partial")
    with only_run(directory, "directory"):
        if new.is_dir() and all(
            path.suffix in (".json", ".safetensors", ".partial") for path in new.rglob("*")
        ):
            shutil.rmtree(new)  # of an export that was killed
        if new.exists():
            raise ValueError(
                f"`directory` is {directory}, but {new}, where it is written first, holds other files. Move them away, "
                "or name another folder."
            )
        new.mkdir()
        yield new
        sync_files(new)
        if directory.exists():
            directory.rmdir()
        new.rename(directory)
        sync_folder(directory.parent)
