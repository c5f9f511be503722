"""A dataset of LeRobot's, of which only the samples are changed."""

from typing import Any

from torch.utils.data import Dataset


class DatasetView(Dataset):
    """Everything but the samples, which a subclass makes, is the dataset's own.

    Args:
        dataset: A LeRobotDataset, not a streaming one.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __getattr__(self, name: str) -> Any:
        """What is asked of the dataset, such as `meta`."""
        if name.startswith("__") or "_dataset" not in vars(self):  # while it is unpickled
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __len__(self) -> int:
        """Number of frames."""
        return len(self._dataset)
