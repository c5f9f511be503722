"""`lara_lam` as a LeRobot policy: batches in, the latent action model's losses out.

Shapes: B batch, L latent-action tokens, C latent width.
"""

import logging
from typing import Any, NoReturn

from torch import Tensor

from lerobot_lara.batch.frame_gap import check_frame_gap
from lerobot_lara.batch.frame_pairs import FramePairs
from lerobot_lara.lam.configuration_lara_lam import LaraLAMConfig
from lerobot_lara.lam.latent_action_model import LatentActionModel
from lerobot_lara.policy.base import LaraPolicyBase
from lerobot_lara.training.augmentation import random_shift
from lerobot_lara.training.finite import require_finite_losses
from lerobot_lara.training.log import read_numbers
from lerobot_lara.training.memory import class_names, configure_networks

logger = logging.getLogger(__name__)


class LaraLAMPolicy(LaraPolicyBase):
    """Trains a latent action model on frame pairs.

    Batch keys: the camera's images (B, 2, 3, H, W) in [0, 1], `frame_gap` frames apart, and
    `<camera>_is_pad` (B, 2), True where a frame lies beyond its episode. Everything else is ignored.

    Args:
        config: The configuration.
        dataset_meta: Passed by LeRobot's training; its episode lengths are checked against `frame_gap`.
    """

    config_class = LaraLAMConfig
    name = "lara_lam"

    def __init__(self, config: LaraLAMConfig, dataset_meta: Any = None, **kwargs: Any) -> None:
        super().__init__(config, dataset_meta=dataset_meta)
        if config.input_features:  # A latent action model saved without LeRobot names none.
            config.validate_features()
            logger.info("The latent action model learns from camera %s.", config.camera_key)
        if dataset_meta is not None:
            check_frame_gap(dataset_meta.episodes["length"], config.frame_gap)
        self.config = config
        self.model = LatentActionModel(config.settings)
        configure_networks(
            networks=self.model.networks,
            blocks=self.model.blocks,
            compile_model=config.compile_model and not self.only_acts,
            gradient_checkpointing=config.gradient_checkpointing and not self.only_acts,
        )

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """The training objective on one batch (keys in the class docstring).

        Returns:
            The loss, and every loss term and metric of `LatentActionModel.forward` as a number; on a mixture also
            `prediction_error/<dataset>`, the unweighted squared error.

        Raises:
            ValueError: If the camera is missing, or its images are no pairs of RGB frames in [0, 1].
        """
        pairs = FramePairs.from_batch(batch, self.config.camera_key)
        frames = random_shift(pairs.frames, self.config.random_shift) if self.training else pairs.frames
        output = self.model(frames, pairs.valid)
        assert output.loss is not None and output.pair_error is not None
        log = output.losses | output.metrics
        log |= self.mixture.means(
            "prediction_error",
            output.pair_error,
            pairs.valid,
            pairs.dataset_index,
            remember=self.training,
        )
        numbers = read_numbers(log)
        require_finite_losses(numbers, batch)
        return output.loss, numbers

    @property
    def _no_split_modules(self) -> list[str]:
        """What FSDP shards block by block (transformers' name for it, which accelerate asks for)."""
        return class_names(self.model.blocks)

    def get_optim_params(self) -> list:
        """The trained parameters; frozen encoders are not among them."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def reset(self) -> None:
        """Nothing to do: a latent action model has no state between frames."""

    def predict_action_chunk(self, batch: dict[str, Tensor], **kwargs: Any) -> NoReturn:
        """Raises ValueError: a latent action model has no robot actions."""
        raise ValueError(
            "A lara_lam predicts frames, not actions. Train a policy with it: --policy.type=lara "
            "--policy.lam_path=<this checkpoint>."
        )

    def select_action(self, batch: dict[str, Tensor], **kwargs: Any) -> NoReturn:
        """Raises ValueError, as `predict_action_chunk`."""
        self.predict_action_chunk(batch)
