"""Loading errors that say what is wrong with a checkpoint."""

from pathlib import Path
from typing import Any

from draccus.utils import DecodingError
from safetensors import SafetensorError

# For the type checker: whatever policy follows the mixin in the class statement.
BasePolicy: Any = object


class ExplainedLoading(BasePolicy):
    """Put before `PreTrainedPolicy`: turns library errors of `from_pretrained` into a `ValueError`."""

    @classmethod
    def from_pretrained(cls, pretrained_name_or_path: str | Path, **kwargs: Any) -> Any:
        """LeRobot's `from_pretrained`.

        Raises:
            ValueError: The weight file is damaged, or config.json has a field that this version does not know.
        """
        try:
            return super().from_pretrained(pretrained_name_or_path, **kwargs)
        except SafetensorError as error:
            raise ValueError(
                f"Corrupted checkpoint: model.safetensors of {pretrained_name_or_path} cannot be read ({error}). "
                "Copy or download it again."
            ) from error
        except DecodingError as error:
            raise ValueError(
                f"config.json of {pretrained_name_or_path} does not fit {cls.__name__}: {error}. It was written by "
                "another version of lerobot_lara, or edited."
            ) from error
