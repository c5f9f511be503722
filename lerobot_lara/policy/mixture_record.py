"""What a policy keeps of the mixture that it is trained on."""

from pathlib import Path
from typing import Any

from lerobot_lara.files.atomic import write_json
from lerobot_lara.policy.dataset_log import DatasetMeans

MIXTURE_FILE = "mixture.json"


class MixtureRecord:
    """A mixture's description for checkpoints, its datasets for the model card, and the log's means by dataset.

    Args:
        dataset_meta: Passed by LeRobot's training; that of a mixture has the attribute `mixture`. Anything else, or
            None, is no mixture.

    Attributes:
        description: JSON-ready; None without a mixture.
        means: Averages numbers by dataset.
    """

    def __init__(self, dataset_meta: Any = None) -> None:
        self.description: dict[str, Any] | None = getattr(dataset_meta, "mixture", None)
        entries = [] if self.description is None else self.description["entries"]
        if len(entries) == 1:
            entries = []  # its means are those of the whole batch
        self.means = DatasetMeans(
            [entry["name"] for entry in entries], [entry["labeled"] for entry in entries]
        )

    @property
    def repo_ids(self) -> list[str]:
        """Ids of the mixture's datasets, sorted; empty without a mixture."""
        return sorted({entry["repo_id"] for entry in (self.description or {"entries": []})["entries"]})

    def save(self, directory: Path) -> None:
        """Writes `mixture.json`, if there is a mixture."""
        if self.description is not None:
            write_json(directory / MIXTURE_FILE, self.description)
