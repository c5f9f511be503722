"""What a policy keeps of the mixture that it is trained on."""

import json
from pathlib import Path
from typing import Any

from lerobot_lara.policy.dataset_log import DatasetMeans

MIXTURE_FILE = "mixture.json"

# For the type checker: whatever policy follows the mixin in the class statement.
BasePolicy: Any = object


class MixtureRecord(BasePolicy):
    """Put before `PreTrainedPolicy`: logs by dataset, writes `mixture.json`, names the datasets in the model card.

    Args:
        config: The policy's configuration.
        dataset_meta: Passed by LeRobot's training; that of a mixture has the attribute `mixture`.
        **kwargs: The base's.
    """

    def __init__(self, config: Any, *, dataset_meta: Any = None, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.mixture: dict[str, Any] | None = getattr(dataset_meta, "mixture", None)
        entries = [] if self.mixture is None else self.mixture["entries"]
        self.dataset_means = DatasetMeans(
            [entry["name"] for entry in entries], [entry["labeled"] for entry in entries]
        )

    def _save_pretrained(self, save_directory: Path, **kwargs: Any) -> None:
        super()._save_pretrained(save_directory, **kwargs)
        if self.mixture is not None:
            (Path(save_directory) / MIXTURE_FILE).write_text(json.dumps(self.mixture, indent=2) + "\n")

    def generate_model_card(self, dataset_repo_id: Any, *args: Any, **kwargs: Any) -> Any:
        """LeRobot's model card, with the datasets of a mixture in the place of its file."""
        if self.mixture is not None:
            dataset_repo_id = sorted({entry["repo_id"] for entry in self.mixture["entries"]})
        return super().generate_model_card(dataset_repo_id, *args, **kwargs)
