"""Configuration of `lara_lam`, the latent action model trained on its own (stage 1)."""

from dataclasses import dataclass, field, fields
from typing import ClassVar

from lerobot.configs import NormalizationMode, PreTrainedConfig

from lerobot_lara.lam import artifact
from lerobot_lara.lam.settings import LatentActionSettings
from lerobot_lara.training.config import TrainingConfig
from lerobot_lara.training.validation import require_field


@PreTrainedConfig.register_subclass("lara_lam")
@dataclass
class LaraLAMConfig(LatentActionSettings, TrainingConfig):
    """A latent action model trained by `lerobot-train` on any video dataset, with or without actions.

    The fields of the model itself are those of `LatentActionSettings`, those of its optimization those of
    `TrainingConfig`.

    Args:
        camera: Dataset key of the camera to learn from, e.g. observation.images.front; None is the first.
        random_shift: Largest random shift of training frames in pixels, the same for both frames of a pair.
    """

    supports_mixtures: ClassVar[bool] = True

    camera: str | None = None
    random_shift: int = 0

    # Frames reach the model in [0, 1]; it normalizes for its own encoder.
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {
            "VISUAL": NormalizationMode.IDENTITY,
            "STATE": NormalizationMode.IDENTITY,
            "ACTION": NormalizationMode.IDENTITY,
        }
    )

    optimizer_lr: float = 1e-3
    optimizer_weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        self.validate_settings()
        require_field(self, "random_shift", self.random_shift >= 0, "0 (off) or a number of pixels")

    @property
    def settings(self) -> LatentActionSettings:
        """The fields of the model itself, apart from LeRobot's."""
        names = [f.name for f in fields(LatentActionSettings)]
        return LatentActionSettings(**{name: getattr(self, name) for name in names})

    @property
    def camera_key(self) -> str:
        """Dataset key of the camera in use.

        Raises:
            ValueError: If `camera` does not exist, or there is no camera at all.
        """
        cameras = list(self.image_features)
        if not cameras:
            raise ValueError(
                f"`input_features` has no camera (found {sorted(self.input_features or {})}); lara_lam learns "
                "from video. Use a dataset with observation.image or observation.images.<name>."
            )
        require_field(self, "camera", self.camera in (None, *cameras), f"one of the dataset's, {cameras}")
        return self.camera or cameras[0]

    def validate_features(self) -> None:
        """Raises ValueError when the dataset lacks the camera; actions and state are not needed."""
        _ = self.camera_key

    @property
    def drop_n_last_frames(self) -> int:
        """Frames at an episode's end that LeRobot's sampler leaves out, as no future frame follows them."""
        return self.frame_gap

    @property
    def observation_delta_indices(self) -> list[int]:
        """Both frames of the pair, relative to the present."""
        return [0, self.frame_gap]

    @property
    def action_delta_indices(self) -> None:
        """None: actions are not used."""
        return None

    @property
    def reward_delta_indices(self) -> None:
        """None: rewards are not used."""
        return None


artifact.policy_fields.update(f.name for f in fields(LaraLAMConfig))
