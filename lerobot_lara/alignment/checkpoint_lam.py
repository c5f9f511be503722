"""The latent action model (LAM) of a checkpoint: of a `lara_lam`, or the aligned one of a `lara` or `lara_<base>`."""

from dataclasses import dataclass
from pathlib import Path

from lerobot_lara.alignment.attachment import LAM_FOLDER
from lerobot_lara.alignment.config import LatentAlignmentConfig
from lerobot_lara.lam import artifact
from lerobot_lara.lam.configuration_lara_lam import LaraLAMConfig
from lerobot_lara.lam.latent_action_model import LatentActionModel
from lerobot_lara.policy.checkpoint_files import Checkpoint
from lerobot_lara.policy.read_config import read_config

# Parts of paths such as <run>/checkpoints/last/pretrained_model that do not distinguish one run from another.
GENERIC_PARTS = {"checkpoints", "last", "pretrained_model"}


@dataclass(frozen=True)
class CheckpointLAM:
    """Where the LAM of a checkpoint is.

    Args:
        path: Folder or Hub id of the checkpoint.
        revision: On the Hub.
        subfolder: Folder of the LAM within; None if the checkpoint is the LAM itself.
        type: Type of the checkpoint.
        camera: Camera that the LAM was trained on, where the checkpoint says so.
    """

    path: str
    revision: str | None
    subfolder: str | None
    type: str
    camera: str | None

    @property
    def sha256(self) -> str:
        """SHA-256 of the weights."""
        return artifact.digest(self.path, revision=self.revision, subfolder=self.subfolder)

    def load(self) -> LatentActionModel:
        """The LAM in eval mode, on the CPU.

        Raises:
            ValueError: It is damaged.
        """
        return LatentActionModel.from_pretrained(self.path, revision=self.revision, subfolder=self.subfolder)


def find_lam(path: str, *, revision: str | None = None) -> CheckpointLAM:
    """Finds the LAM of a checkpoint.

    Args:
        path: Folder or Hub id of the checkpoint.
        revision: On the Hub.

    Raises:
        ValueError: There is no such checkpoint, or it holds no LAM.
    """
    if (Path(path) / "checkpoints" / "last" / "pretrained_model").is_dir():
        raise ValueError(
            f"{path} is the folder of a training run: it holds no checkpoint itself. Pass "
            f"{path}/checkpoints/last/pretrained_model."
        )
    try:
        config = read_config(Checkpoint(path, revision))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{path} cannot be opened: it is neither a folder with a policy's config.json nor a readable Hub "
            f"repository ({reason}). Pass the folder or Hub id of a lara_lam or lara checkpoint."
        ) from error
    if isinstance(config, LaraLAMConfig):
        subfolder, camera = None, config.camera
    elif isinstance(config, LatentAlignmentConfig):
        subfolder, camera = LAM_FOLDER, config.lam_camera
    else:
        raise ValueError(
            f"{path} is of type {config.type!r}: such checkpoints hold no latent action model. Pass a checkpoint of "
            "type 'lara_lam' or 'lara'."
        )
    return CheckpointLAM(
        path, revision, subfolder, config.type, camera or next(iter(config.image_features or {}), None)
    )
