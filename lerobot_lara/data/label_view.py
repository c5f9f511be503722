"""A dataset of LeRobot's with the latent labels of its frames beside each of its samples.

The samples themselves stay as they are; nothing is decoded for the labels.
"""

import logging
from typing import Any

from lerobot_lara.data.dataset_view import DatasetView
from lerobot_lara.data.frame_pair_view import find_camera
from lerobot_lara.data.latent_labels.fingerprint import episode_lengths
from lerobot_lara.data.latent_labels.join import LabelJoin, open_labels
from lerobot_lara.data.mixture.sources import image_shape

logger = logging.getLogger(__name__)


class LabelView(DatasetView):
    """See the module; everything but the samples is the dataset's own.

    Args:
        dataset: A LeRobotDataset, not a streaming one.
        join: Adds the labels.
    """

    def __init__(self, dataset: Any, join: LabelJoin) -> None:
        super().__init__(dataset)
        self._join = join
        self._lengths = episode_lengths(dataset.meta)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """The dataset's sample with its labels."""
        sample = self._dataset[row]
        remaining = self._lengths[int(sample["episode_index"])] - int(sample["frame_index"])
        return sample | self._join(int(sample["index"]), remaining)


def with_labels(datasets: tuple[Any, Any], cfg: Any) -> tuple[Any, Any]:
    """Adds latent labels to the training and held-out sets of a run.

    Args:
        datasets: Those of LeRobot; the second may be None.
        cfg: LeRobot's configuration of the run, whose policy has a `label_request`.

    Returns:
        Views of them; the manifest of the labels is `meta.latent_labels`.

    Raises:
        ValueError: The data is streamed, or the labels are missing or do not fit.
    """
    policy = cfg.policy
    refuse_streaming(cfg)
    if policy.lam_labels is None:
        raise ValueError(
            "`lam_labels` is missing; it must be the folder of the dataset's latent labels. Run `lara label <lam> "
            f"{cfg.dataset.repo_id} --out=<folder>`, and pass it as --policy.lam_labels."
        )
    meta = datasets[0].meta
    camera = find_camera(policy, meta, cfg.rename_map)
    chosen = [
        range(meta.total_episodes) if each.episodes is None else each.episodes for each in datasets if each
    ]
    labels = open_labels(
        policy.lam_labels,
        meta,
        policy.label_request,
        camera=camera,
        frame_size=image_shape(meta, camera)[1:],
        frame_gap=policy.frame_gap,
        episodes=sorted({episode for episodes in chosen for episode in episodes}),
        name=cfg.dataset.repo_id,
    )
    if cfg.dataset.image_transforms.enable:
        logger.warning(
            "The policy's images are augmented (--dataset.image_transforms.enable=true); the labels are of frames that "
            "were not."
        )
    views = [
        None
        if dataset is None
        else LabelView(dataset, LabelJoin(labels, policy.label_request, training=number == 0))
        for number, dataset in enumerate(datasets)
    ]
    meta.latent_labels = labels.manifest
    return views[0], views[1]


def refuse_streaming(cfg: Any) -> None:
    """Raises ValueError for streamed data, whose frames come without their place in the dataset."""
    if cfg.dataset.streaming:
        raise ValueError(
            "`dataset.streaming` is true; it must be false with latent labels, which are found by a frame's place in "
            "its dataset. Leave --dataset.streaming out."
        )
