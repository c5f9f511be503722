"""Loads checkpoints strictly, with errors that say what is wrong."""

from pathlib import Path
from typing import Any

from draccus.utils import DecodingError
from safetensors import SafetensorError

# For the type checker: whatever policy follows the mixin in the class statement.
BasePolicy: Any = object


class StrictLoading(BasePolicy):
    """Put before `PreTrainedPolicy`: turns library errors of `from_pretrained` into a `ValueError`."""

    @classmethod
    def from_pretrained(cls, pretrained_name_or_path: str | Path, **kwargs: Any) -> Any:
        """LeRobot's `from_pretrained`.

        Raises:
            ValueError: The weight file is damaged or does not fit, or config.json has a field that this version
                does not know.
        """
        try:
            return super().from_pretrained(pretrained_name_or_path, **kwargs)
        except DecodingError as error:
            raise ValueError(
                f"config.json of {pretrained_name_or_path} does not fit {cls.__name__}: {error}. It was written by "
                "another version of lerobot_lara, or edited."
            ) from error

    @classmethod
    def _load_as_safetensor(cls, model: Any, model_file: str, map_location: str, strict: bool) -> Any:
        # Always strict: LeRobot's default would leave a missing weight at its random start.
        try:
            return super()._load_as_safetensor(model, model_file, map_location, strict=True)
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"Corrupted checkpoint: {model_file} cannot be read ({error}). Copy or download it again."
            ) from error
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"The weights in {model_file} do not fit the configuration: {reason} Keep the checkpoint's own sizes, "
                "cameras and `freeze_vision_encoder`, or it is damaged."
            ) from error
