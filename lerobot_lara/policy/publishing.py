"""Pushes a policy to the Hub without the paths of the machine that trained it."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lerobot.configs import PreTrainedConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.policies.pretrained import PreTrainedPolicy

from lerobot_lara.training.portable import is_path, published, published_run


class PublishingPolicy(PreTrainedPolicy):
    """LeRobot's policy, whose pushes travel.

    Attributes:
        is_published: Whether what is being saved will be pushed.
        mixture: The mixture that the policy is trained on; None in a policy that keeps no record.
    """

    # LeRobot asks every policy class for these; the types of the package set their own.
    config_class: Any = PreTrainedConfig
    name: Any = "publishing_policy"
    config: Any
    is_published = False
    mixture: Any = None

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """LeRobot's `push_to_hub`, without paths of this machine."""
        with self._publishing():
            return super().push_to_hub(*args, **kwargs)

    def push_model_to_hub(self, cfg: TrainPipelineConfig, *args: Any, **kwargs: Any) -> Any:
        """LeRobot's push after training, without paths of this machine, also in the record of the run."""
        if (dataset_meta := kwargs.get("dataset_meta")) is not None:
            kwargs["dataset_meta"] = copy.copy(dataset_meta)
            kwargs["dataset_meta"].repo_id = published_run(cfg).dataset.repo_id
        with self._publishing():
            return super().push_model_to_hub(published_run(cfg), *args, **kwargs)

    def generate_model_card(self, dataset_repo_id: Any, *args: Any, **kwargs: Any) -> Any:
        """LeRobot's model card, with the datasets of a mixture instead of its file."""
        repo_ids = [] if self.mixture is None else self.mixture.repo_ids
        return super().generate_model_card(repo_ids or dataset_repo_id, *args, **kwargs)

    @contextmanager
    def _publishing(self) -> Iterator[None]:
        own = self.config
        self.config, self.is_published = published(own), True
        try:
            yield
        finally:
            self.config, self.is_published = own, False


def published_name(name: str) -> str:
    """The last part of a path; Hub ids and presets stay."""
    return Path(name).name if is_path(name) else name
