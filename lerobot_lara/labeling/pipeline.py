"""The steps of a datatrove pipeline that labels a dataset."""

from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep

from lerobot_lara.labeling.finish import finish_labels
from lerobot_lara.labeling.shards import label_shard


class LabelShards(PipelineStep):
    """Labels every `world_size`-th shard, starting with that of its rank.

    Args:
        folder: Folder of the labels, which holds the plan.
        num_shards: Number of all shards.
    """

    name = "Latent labels"
    type = "Labeler"

    def __init__(self, folder: str, num_shards: int) -> None:
        super().__init__()
        self.folder = folder
        self.num_shards = num_shards

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        """Labels the shards of a rank, and hands on nothing."""
        for shard in range(rank, self.num_shards, world_size):
            self.stat_update("frames", value=label_shard(Path(self.folder), shard), unit="shard")
        return data


class FinishLabels(PipelineStep):
    """Checks the files of all shards and writes the manifest.

    Args:
        folder: Folder of the labels.
    """

    name = "Manifest"
    type = "Labeler"

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        """Finishes the labels, and hands on nothing."""
        finish_labels(Path(self.folder))
        return data
