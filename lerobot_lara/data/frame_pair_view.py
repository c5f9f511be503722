"""A dataset of LeRobot's, and beside each of its samples the frame pair that a latent action model (LAM) sees.

The samples themselves stay as they are, random augmentation included, so that the policy trains on what it would train
on without a LAM. One frame more is decoded per sample, of one camera.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lerobot.configs import PreTrainedConfig
from torch import Tensor

from lerobot_lara.batch.keys import FRAME_PAIR, FRAME_PAIR_IS_PAD
from lerobot_lara.data.dataset_view import DatasetView
from lerobot_lara.data.mixture.reader import ColumnReader


class FramePairView(DatasetView):
    """See the module; everything but the samples is the dataset's own.

    Args:
        dataset: A LeRobotDataset, not a streaming one.
        camera: Camera of the dataset.
        frame_gap: K, in frames; 0 for pairs of o_t with itself, for which nothing is decoded.
        observation_deltas: Frames of the policy's observation window, which must have 0; None for the present frame
            without a time axis.
        video_backend: LeRobot's name of the video decoder.
        tolerance_s: How far a decoded frame may be from its timestamp, in seconds.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        camera: str,
        frame_gap: int,
        observation_deltas: list[int] | None,
        video_backend: str,
        tolerance_s: float,
    ) -> None:
        super().__init__(dataset)
        self._camera = camera
        self._frame_gap = frame_gap
        self._present = None if observation_deltas is None else observation_deltas.index(0)
        self._reader = ColumnReader(
            dataset, name=dataset.repo_id, video_backend=video_backend, tolerance_s=tolerance_s
        )
        # Applied here, so that both frames of a pair get the same.
        self._image_transforms = dataset.image_transforms
        dataset.clear_image_transforms()

    def __getitem__(self, row: int) -> dict[str, Any]:
        """The dataset's sample, with the pair (2, 3, H, W) and (2,) bool, True where it crosses the episode's end."""
        sample = self._dataset[row]
        window = sample[self._camera]
        # LeRobot leaves the time axis out where a window has one frame of video.
        present = window if self._present is None or window.ndim == 3 else window[self._present]
        position = int(np.searchsorted(self._reader.starts, row, side="right")) - 1
        rows, is_pad = self._reader.window(position, row, [0, self._frame_gap])
        future = present
        if rows[1] != rows[0]:
            future = self._reader.images(self._camera, self._reader.episodes[position], rows[1:])[0]
        pair = torch.stack([present, _as(future, present.dtype)])
        sample[FRAME_PAIR], sample[FRAME_PAIR_IS_PAD] = pair, torch.from_numpy(is_pad)
        return sample if self._image_transforms is None else self._transformed(sample)

    def _transformed(self, sample: dict[str, Any]) -> dict[str, Any]:
        """The sample after LeRobot's augmentation, with the draws that its dataset makes."""
        meta = self._dataset.meta
        for camera in meta.camera_keys:
            if camera in meta.depth_keys:
                continue
            if camera == self._camera:
                random_state = torch.get_rng_state()
            sample[camera] = self._image_transforms(sample[camera])
            if camera == self._camera:
                with torch.random.fork_rng(devices=[]):
                    torch.set_rng_state(random_state)
                    sample[FRAME_PAIR] = self._image_transforms(sample[FRAME_PAIR])
        return sample


def with_frame_pairs(datasets: tuple[Any, Any], cfg: Any) -> tuple[Any, Any]:
    """Adds frame pairs to the training and held-out sets of a run.

    Args:
        datasets: Those of LeRobot; the second may be None.
        cfg: LeRobot's configuration of the run, whose policy has a `frame_gap`.

    Returns:
        Views of them.

    Raises:
        ValueError: The data is streamed, or lacks the camera.
    """
    if cfg.dataset.streaming:
        raise ValueError(
            f"`dataset.streaming` is true; it must be false for --policy.type={cfg.policy.type}, which needs two "
            "frames of an episode at a time. Leave --dataset.streaming out."
        )
    camera = find_camera(cfg.policy, datasets[0].meta, cfg.rename_map)
    deltas = cfg.policy.observation_delta_indices
    views = [
        None
        if dataset is None
        else FramePairView(
            dataset,
            camera=camera,
            frame_gap=cfg.policy.pair_gap,
            observation_deltas=None if deltas is None else list(deltas),
            video_backend=cfg.dataset.video_backend,
            tolerance_s=cfg.tolerance_s,
        )
        for dataset in datasets
    ]
    return views[0], views[1]


def find_camera(policy: PreTrainedConfig, meta: Any, rename_map: Mapping[str, str] | None) -> str:
    """The dataset's camera that the LAM sees: that of `lam_camera`, else the first that the policy sees.

    Args:
        policy: Configuration of the policy; it names cameras as after `rename_map`.
        meta: Metadata of the dataset.
        rename_map: LeRobot's: name in the dataset -> name for the policy.

    Raises:
        ValueError: The dataset lacks it.
    """
    cameras = [camera for camera in meta.camera_keys if camera not in meta.depth_keys]
    by_name = {(rename_map or {}).get(camera, camera): camera for camera in cameras}
    wanted: Any = getattr(policy, "lam_camera", None)
    if wanted is None:
        known = [camera for camera in policy.image_features if camera in by_name] or list(by_name)
        if not known:
            raise ValueError(
                f"{meta.repo_id} has no color camera, which a latent action model needs. Choose another dataset."
            )
        return by_name[known[0]]
    if wanted not in by_name:
        raise ValueError(
            f"`lam_camera` is {wanted!r}; it must be one of {sorted(by_name)}, the cameras of {meta.repo_id}. Choose "
            "one, or name it so with --rename_map."
        )
    return by_name[wanted]


def _as(image: Tensor, dtype: torch.dtype) -> Tensor:
    """A uint8 image as the dataset hands them out: as it is, or in [0, 1]."""
    return image if dtype == torch.uint8 else image.to(dtype) / 255
