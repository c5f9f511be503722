"""The training and held-out sets of a run of `lerobot-train`: a mixture file, or a dataset as a mixture of one."""

import logging
from collections.abc import Iterable
from typing import Any

import torch
from lerobot.configs.train import TrainPipelineConfig
from lerobot.transforms import ImageTransforms
from lerobot.utils.constants import IMAGENET_STATS

from lerobot_lara.batch.embodiments import DEFAULT_EMBODIMENT
from lerobot_lara.data.mixture.build import build_mixture
from lerobot_lara.data.mixture.config import MixtureConfig, load_mixture, require_roots
from lerobot_lara.data.mixture.lerobot_compatibility import check_lerobot
from lerobot_lara.data.mixture.resumed_mixture import check_resumed
from lerobot_lara.data.mixture.run_policy import add_embodiments, with_label_source
from lerobot_lara.data.mixture.single import single_dataset

logger = logging.getLogger(__name__)

# Flags of a single dataset that are keys of an entry in a mixture.
ENTRY_FLAGS = ("root", "episodes", "revision")


def make_mixture_datasets(cfg: TrainPipelineConfig) -> tuple[Any, Any]:
    """Makes the training and held-out sets of a mixture file.

    For a new run, `cfg.policy` is replaced by one that knows the mixture's embodiments.

    Args:
        cfg: LeRobot's configuration of the run; `cfg.dataset.repo_id` is the mixture file.

    Returns:
        The training set, and the held-out set or None.

    Raises:
        ValueError: For a LeRobot that does not treat mixtures as intended, flags that do not apply to a mixture, a
            bad mixture file, datasets that do not fit, or a resumed run whose mixture has changed.
    """
    check_lerobot(cfg.dataset.repo_id)
    _check_flags_of_mixture(cfg)
    mixture = load_mixture(cfg.dataset.repo_id)
    require_roots(mixture, cfg.dataset.repo_id)
    if not cfg.resume:
        cfg.policy = with_label_source(cfg.policy, mixture)
    if hasattr(cfg.policy, "embodiments") and not cfg.resume:
        # LeRobot builds the policy from `cfg.policy` after the datasets, so this is where it learns of new robots.
        cfg.policy = add_embodiments(cfg.policy, mixture)
    training, held_out = _build(cfg, mixture)
    if cfg.resume:
        check_resumed(cfg, training.meta.mixture)
    return training, held_out


def make_single_datasets(cfg: TrainPipelineConfig) -> tuple[Any, Any]:
    """Makes the training and held-out sets of one dataset, which is read and checked as a mixture of one entry.

    Args:
        cfg: LeRobot's configuration of the run; its policy takes mixtures.

    Returns:
        The training set, and the held-out set or None.

    Raises:
        ValueError: For `sample_weighting`, a bad flag, or a dataset that the policy cannot learn from.
    """
    if cfg.sample_weighting is not None:
        raise ValueError(
            f"`sample_weighting` is set; it must not be for --policy.type={_type(cfg)}, which averages the losses of "
            "its samples itself. Leave it out."
        )
    policy: Any = cfg.policy
    embodiment = (
        getattr(policy, "embodiment", None) or getattr(policy, "embodiments", [DEFAULT_EMBODIMENT])[0]
    )
    mixture = single_dataset(
        cfg.dataset.repo_id,
        root=cfg.dataset.root,
        revision=cfg.dataset.revision,
        episodes=cfg.dataset.episodes,
        embodiment=embodiment,
        rename_map=cfg.rename_map,
        labels=getattr(policy, "lam_labels", None),
    )
    training, held_out = _build(cfg, mixture)
    if cfg.resume:
        check_resumed(cfg, training.meta.mixture, strict=False)
    return training, held_out


def _build(cfg: TrainPipelineConfig, mixture: MixtureConfig) -> tuple[Any, Any]:
    assert cfg.policy is not None
    transforms = cfg.dataset.image_transforms
    training, held_out = build_mixture(
        mixture,
        cfg.policy,
        path=cfg.dataset.repo_id,
        video_backend=cfg.dataset.video_backend,
        tolerance_s=cfg.tolerance_s,
        image_transforms=ImageTransforms(transforms) if transforms.enable else None,
        eval_split=cfg.dataset.eval_split,
        max_eval_samples=cfg.max_eval_samples,
    )
    if cfg.dataset.use_imagenet_stats:
        _set_imagenet_stats(training.meta.stats, training.meta.camera_keys)
    return training, held_out


def _set_imagenet_stats(stats: dict[str, dict[str, Any]], cameras: Iterable[str]) -> None:
    for camera in cameras:
        for name, values in IMAGENET_STATS.items():
            stats[camera][name] = torch.tensor(values, dtype=torch.float32)


def _type(cfg: TrainPipelineConfig) -> str:
    assert cfg.policy is not None
    return cfg.policy.type


def _check_flags_of_mixture(cfg: TrainPipelineConfig) -> None:
    """Refuses flags of `lerobot-train` that do not apply to a mixture."""
    for name in ENTRY_FLAGS:
        value = getattr(cfg.dataset, name)
        if value is not None:
            raise ValueError(
                f"`dataset.{name}` is {value!r}; it must not be set for a mixture. Set `{name}` of an entry in "
                f"{cfg.dataset.repo_id} instead."
            )
    if cfg.dataset.streaming:
        raise ValueError(
            "`dataset.streaming` is true; it must be false for a mixture, whose datasets are read from disk. Leave "
            "--dataset.streaming out."
        )
    if cfg.sample_weighting is not None:
        raise ValueError(
            "`sample_weighting` is set; it must not be for a mixture, as it works on one dataset. Set the `weight` of "
            "the mixture's entries instead."
        )
    if cfg.rename_map:
        raise ValueError(
            f"`rename_map` is {cfg.rename_map}; it must be empty for a mixture, as it would not rename the masks. Map "
            "the `cameras` of the mixture's entries instead."
        )
    if (labels := getattr(cfg.policy, "lam_labels", None)) is not None:
        raise ValueError(
            f"`lam_labels` is {labels!r}; it must not be set for a mixture. Set `labels` of the entries in "
            f"{cfg.dataset.repo_id} instead."
        )
    if cfg.policy is None:
        raise ValueError(
            "`policy` is not set; it must be for a mixture, which trains policies and no reward models. Pass "
            "--policy.type=..."
        )
