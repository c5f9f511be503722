"""How fast a policy acts: the frames per second of the data that it was trained on."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lerobot.configs import PreTrainedConfig as BaseConfig
else:
    BaseConfig = object


@dataclass
class ControlRateConfig(BaseConfig):
    """Mixin for configurations of policies.

    Args:
        fps: Frames, and so actions, per second of the data; in a mixture, of the dataset that gives the statistics. Set
            by training. None if it is not known, as in checkpoints of earlier versions.
    """

    fps: float | None = None


def record_control_rate(config: Any, dataset_meta: Any) -> None:
    """Keeps the rate of the data to train on in the configuration, which goes into checkpoints.

    Args:
        config: A policy's configuration; nothing is kept in one without `fps`.
        dataset_meta: Metadata of the data; None keeps what is there.
    """
    fps = getattr(dataset_meta, "fps", None)
    if isinstance(config, ControlRateConfig) and fps is not None:
        config.fps = float(fps)
