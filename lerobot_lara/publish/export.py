"""Rewrites a `lara` checkpoint as one of its parts: the latent action model, or the plain DiT policy."""

from pathlib import Path
from typing import Any

from draccus.utils import DecodingError
from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import make_pre_post_processors

from lerobot_lara.alignment.attachment import LAM_FOLDER
from lerobot_lara.alignment.config import LatentAlignmentConfig
from lerobot_lara.configuration_lara import LaraConfig
from lerobot_lara.dit.configuration_lara_dit import LaraDiTConfig
from lerobot_lara.dit.modeling_lara_dit import LaraDiTPolicy
from lerobot_lara.lam.configuration_lara_lam import LaraLAMConfig
from lerobot_lara.lam.latent_action_model import LatentActionModel
from lerobot_lara.lam.modeling_lara_lam import LaraLAMPolicy


def export_lam(checkpoint: str | Path, directory: str | Path) -> None:
    """Writes the aligned latent action model of a `lara` checkpoint as a `lara_lam` policy directory.

    Args:
        checkpoint: Folder or Hub id of a `lara` policy.
        directory: Created; must not exist or be empty.

    Raises:
        ValueError: `checkpoint` is no `lara` policy, or `directory` is in use.
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
    policy.save_pretrained(directory)
    for pipeline in make_pre_post_processors(lam_config):
        pipeline.save_pretrained(directory)


def export_dit(checkpoint: str | Path, directory: str | Path) -> None:
    """Writes a `lara` checkpoint as a plain `lara_dit` one, which acts the same.

    Args:
        checkpoint: Folder or Hub id of a `lara` policy.
        directory: Created; must not exist or be empty.

    Raises:
        ValueError: `checkpoint` is no `lara` policy, or `directory` is in use.
    """
    config, directory = _read(checkpoint), _unused(directory)
    fields: dict[str, Any] = {
        name: value for name, value in vars(config).items() if name not in LatentAlignmentConfig.field_names()
    }
    dit_config = LaraDiTConfig(**fields)
    # A checkpoint trained on a GPU names that device; here may be none.
    pipelines = make_pre_post_processors(
        dit_config,
        pretrained_path=str(checkpoint),
        preprocessor_overrides={"device_processor": {"device": dit_config.device}},
    )
    LaraDiTPolicy.from_pretrained(checkpoint, config=dit_config).save_pretrained(directory)
    for pipeline in pipelines:
        pipeline.save_pretrained(directory)


def _read(checkpoint: str | Path) -> LaraConfig:
    try:
        config = PreTrainedConfig.from_pretrained(checkpoint)
    except (OSError, ValueError, DecodingError) as error:
        raise ValueError(f"No policy checkpoint at {checkpoint}: {error}") from error
    if not isinstance(config, LaraConfig):
        raise ValueError(
            f"{checkpoint} is a checkpoint of type {config.type!r}; this needs one of type 'lara'."
        )
    return config


def _unused(directory: str | Path) -> Path:
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"{directory} exists already. Name a new folder, or remove it first.")
    return directory
