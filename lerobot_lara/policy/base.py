"""The policy base of this package: LeRobot's, with checkpoints that are read strictly and a record of the data."""

import logging
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Self

from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE
from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import get_policy_class
from safetensors import SafetensorError
from torch import Tensor

from lerobot_lara.files.checkpoint_reading import WeightHeader
from lerobot_lara.policy.checkpoint_files import Checkpoint
from lerobot_lara.policy.control_rate import record_control_rate
from lerobot_lara.policy.loading import current_loading, loading
from lerobot_lara.policy.mixture_record import MixtureRecord
from lerobot_lara.policy.processor_files import check_loaded_processors
from lerobot_lara.policy.publishing import PublishingPolicy
from lerobot_lara.policy.read_config import read_config
from lerobot_lara.training.finite import require_finite

logger = logging.getLogger(__name__)


class LaraPolicyBase(PublishingPolicy):
    """What the policy types of this package share.

    Args:
        config: The policy's configuration.
        dataset_meta: Passed by LeRobot's training; that of a mixture is recorded in checkpoints.
        **kwargs: Further arguments of LeRobot's training, which are not used.

    Attributes:
        loaded_from: What the policy was loaded from, and for what; None if it is new.
        mixture: The mixture that it is trained on, if any.
    """

    def __init__(self, config: PreTrainedConfig, *, dataset_meta: Any = None, **kwargs: Any) -> None:
        record_control_rate(config, dataset_meta)
        super().__init__(config)
        self.loaded_from = current_loading()
        self.mixture = MixtureRecord(dataset_meta)
        if unused := getattr(config, "unused_cameras", []):
            logger.info("Left out, as they have no color: %s.", unused)

    @property
    def only_acts(self) -> bool:
        """Whether the policy was loaded to act, without what serves training."""
        return self.loaded_from is not None and not self.loaded_from.to_train

    @classmethod
    def from_pretrained(
        cls,
        pretrained_name_or_path: str | Path,
        *,
        config: PreTrainedConfig | None = None,
        dataset_meta: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Loads a checkpoint: adapts its configuration, builds the policy, and reads the weights strictly.

        Args:
            pretrained_name_or_path: Folder or Hub id.
            config: Used instead of the checkpoint's, as LeRobot's commands do after applying their flags.
            dataset_meta: Metadata of the data to train on; None loads the policy to act.
            **kwargs: Arguments of LeRobot's `from_pretrained`, such as `revision`.

        Raises:
            ValueError: A file is missing, damaged or does not fit, or config.json has a field that this version does
                not know.
        """
        checkpoint = Checkpoint.of(pretrained_name_or_path, kwargs)
        check_loaded_processors(checkpoint, config)
        saved = read_config(checkpoint, **kwargs)
        config = cls.adapt_config(config or cls._of_this_type(saved, checkpoint), checkpoint, dataset_meta)
        cls._check_sizes(checkpoint)
        with loading(checkpoint, to_train=dataset_meta is not None):
            return super().from_pretrained(
                pretrained_name_or_path, config=config, dataset_meta=dataset_meta, **kwargs
            )

    @classmethod
    def adapt_config(cls, config: Any, checkpoint: Checkpoint, dataset_meta: Any) -> Any:
        """Returns the configuration to build with, before a checkpoint is loaded; the given one stays as it is."""
        return config

    def arrange_weights(self, checkpoint: Checkpoint) -> AbstractContextManager[None]:
        """Returns a context in which `load_state_dict` takes the checkpoint's weights as this policy stores them."""
        return nullcontext()

    def _save_pretrained(
        self, save_directory: Path, state_dict: dict[str, Tensor] | None = None, **kwargs: Any
    ) -> None:
        require_finite(
            self.state_dict() if state_dict is None else state_dict,
            "Weights to be saved",
            "Continue from an earlier checkpoint, with a lower --policy.optimizer_lr.",
        )
        super()._save_pretrained(save_directory, state_dict=state_dict, **kwargs)
        self.mixture.save(save_directory)

    @classmethod
    def _check_sizes(cls, checkpoint: Checkpoint) -> None:
        """Compares the sizes in config.json with the weight file, before a network is built from them."""
        weights = checkpoint.file(SAFETENSORS_SINGLE_FILE)
        if weights is None:
            raise ValueError(
                f"{checkpoint.path} has no {SAFETENSORS_SINGLE_FILE}, so it holds no weights. Name the folder "
                "`pretrained_model` of a checkpoint, or download it again."
            )
        WeightHeader.read(weights).check_sizes(checkpoint.config)

    @classmethod
    def _of_this_type(cls, config: PreTrainedConfig, checkpoint: Checkpoint) -> PreTrainedConfig:
        if not isinstance(config, cls.config_class):
            saved_type = checkpoint.config["type"]
            right = get_policy_class(saved_type).__name__
            is_base = issubclass(cls.config_class, type(config))
            start = f", or pass a `config` of type {cls.name!r} to start from its weights" if is_base else ""
            raise ValueError(
                f"{checkpoint.path} is a checkpoint of type {saved_type!r}, which {cls.__name__} does not load. Use "
                f"{right}{start}."
            )
        return config

    @classmethod
    def _load_as_safetensor(cls, model: Any, model_file: str, map_location: str, strict: bool) -> Any:
        # Always strict: LeRobot's default would leave a missing weight at its random start.
        try:
            assert model.loaded_from is not None
            WeightHeader.read(Path(model_file)).check_types(model.state_dict())
            with model.arrange_weights(model.loaded_from.checkpoint):
                model = super()._load_as_safetensor(model, model_file, map_location, strict=True)
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"Corrupted checkpoint: {model_file} cannot be read ({error}). Copy or download it again."
            ) from error
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"The weights in {model_file} do not fit the configuration: {reason} Keep the checkpoint's own sizes, "
                "cameras and `freeze_vision_encoder`; if they are unchanged, the file is damaged."
            ) from error
        require_finite(model.state_dict(), f"Weights in {model_file}", "Use an earlier checkpoint.")
        return model
