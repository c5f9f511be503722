"""A mixture's stand-in for LeRobot's dataset metadata."""

from typing import Any

import pandas as pd


class MixtureMetadata:
    """What LeRobot's training and model cards read about a dataset, for a mixture.

    Features, statistics, frame rate and robot are those of the reference dataset. To LeRobot's sampler, an epoch is one
    episode whose frames are the draws of `DrawSchedule`.

    Args:
        repo_id: The mixture file, as given to LeRobot.
        features: Features of the samples.
        stats: Statistics of the reference dataset.
        fps: Frames per second of the reference dataset.
        robot_type: Robot of the reference dataset.
        tasks: Instructions of all datasets.
        num_draws: Length of an epoch.
        dropped_draws: Frames that LeRobot's sampler drops at the end of every episode for this policy type. The
            mixture leaves out frames itself, by each dataset's own frame gap, so its one episode is longer by this
            number of frames.
        total_episodes: Number of episodes of all datasets.
        total_frames: Number of frames of all datasets.
        description: What is mixed, as a record that can be written as JSON.
        latent_labels: Manifest of the datasets' latent labels, for policies that are aligned to labels.
    """

    has_language_columns = False

    def __init__(
        self,
        *,
        repo_id: str,
        features: dict[str, dict],
        stats: dict[str, dict[str, Any]],
        fps: float,
        robot_type: str | None,
        tasks: list[str],
        num_draws: int,
        dropped_draws: int,
        total_episodes: int,
        total_frames: int,
        description: dict[str, Any],
        latent_labels: Any = None,
    ) -> None:
        self.repo_id = repo_id
        self.features = features
        self.stats = stats
        self.fps = fps
        self.robot_type = robot_type
        self.tasks = pd.DataFrame({"task_index": range(len(tasks))}, index=pd.Index(tasks, name="task"))
        self.total_episodes = total_episodes
        self.total_frames = total_frames
        self.mixture = description
        self.latent_labels = latent_labels
        end = num_draws + dropped_draws
        self.episodes = {
            "dataset_from_index": [0],
            "dataset_to_index": [end],
            "length": [end],
            "tasks": [tasks],
        }

    @property
    def camera_keys(self) -> list[str]:
        """Keys of the policy's cameras."""
        return [key for key, feature in self.features.items() if feature["dtype"] in ("image", "video")]
