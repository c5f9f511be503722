"""Lets `lerobot-train --dataset.repo_id=<mixture>.yaml` train on a mixture.

LeRobot 0.6.1 has no registry of datasets: `lerobot_train.train` calls `make_train_eval_datasets(cfg)` by name. That
one function is wrapped here. Anything but a YAML file goes to LeRobot's own; a resumed run has its embodiments checked
first. The wrapper is installed only where LeRobot looks as it did when this was written; otherwise mixtures are off,
which is said at once and, for those who ask for one, by an error.
"""

import functools
import inspect
import json
import logging
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from lerobot import datasets
from lerobot.configs.train import TrainPipelineConfig
from lerobot.datasets import factory
from lerobot.transforms import ImageTransforms
from lerobot.utils.constants import IMAGENET_STATS

from lerobot_lara.batch.embodiments import DEFAULT_EMBODIMENT
from lerobot_lara.data.mixture.build import build_mixture
from lerobot_lara.data.mixture.config import MixtureConfig, load_mixture
from lerobot_lara.policy.checkpoint_files import Checkpoint
from lerobot_lara.policy.mixture_record import MIXTURE_FILE

logger = logging.getLogger(__name__)

FUNCTION = "make_train_eval_datasets"
TRAIN_MODULE = "lerobot.scripts.lerobot_train"
# What the training loop must do with the result, word for word, for a mixture to be sampled as it should.
EXPECTED_CALLS = (
    "dataset, eval_dataset = make_train_eval_datasets(cfg)",
    'dataset.meta.episodes["dataset_from_index"]',
    'drop_n_last_frames=getattr(active_cfg, "drop_n_last_frames", 0)',
    "episode_indices_to_use=dataset.episodes",
    "compute_sampler_state(step, len(sampler), ckpt_batch_size, ckpt_num_processes)",
)


def is_mixture(repo_id: Any) -> bool:
    """Whether `--dataset.repo_id` names a mixture file."""
    return isinstance(repo_id, str) and repo_id.lower().endswith((".yaml", ".yml"))


def problems() -> list[str]:
    """How this LeRobot differs from the one that mixtures are made for; empty if it does not."""
    found = []
    function = getattr(factory, FUNCTION, None)
    original = inspect.unwrap(function) if function is not None else None
    if original is None:
        return [f"lerobot.datasets.factory has no `{FUNCTION}`"]
    parameters = list(inspect.signature(original).parameters)
    if parameters != ["cfg"]:
        found.append(f"`{FUNCTION}` takes {parameters}, not ['cfg']")
    for train in _train_modules():
        try:
            source = inspect.getsource(train)
        except OSError:
            source = ""
        found += [f"{TRAIN_MODULE} no longer has `{call}`" for call in EXPECTED_CALLS if call not in source]
    return found


def install() -> None:
    """Wraps LeRobot's dataset factory, wherever it has been imported to; again is harmless."""
    found = problems()
    if found:
        logger.warning(
            "This LeRobot differs from 0.6.1 (%s): mixtures are off, single datasets are not concerned. Install "
            "lerobot==0.6.1 to use them.",
            "; ".join(found),
        )
        return
    original = inspect.unwrap(getattr(factory, FUNCTION))
    wrapped = _wrap(original)
    for module in (datasets, factory, *_train_modules()):
        if inspect.unwrap(getattr(module, FUNCTION, original)) is original:
            setattr(module, FUNCTION, wrapped)


def make_mixture_datasets(cfg: TrainPipelineConfig) -> tuple[Any, Any]:
    """The training and held-out sets of `cfg.dataset.repo_id`, a mixture file.

    Raises:
        ValueError: For flags that a mixture has no use for, a bad mixture file, datasets that do not fit, or a resumed
            run whose mixture has changed.
    """
    found = problems()
    if found:
        raise ValueError(f"Mixtures need LeRobot 0.6.1; this one differs: {'; '.join(found)}.")
    _check_flags(cfg)
    mixture = load_mixture(cfg.dataset.repo_id)
    if hasattr(cfg.policy, "embodiments") and not cfg.resume:
        _add_embodiments(cfg.policy, mixture)
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
    if cfg.resume:
        _check_resumed(cfg, training.meta.mixture)
    if cfg.dataset.use_imagenet_stats:
        for camera in training.meta.camera_keys:
            for name, values in IMAGENET_STATS.items():
                training.meta.stats[camera][name] = torch.tensor(values, dtype=torch.float32)
    return training, held_out


def _train_modules() -> list[ModuleType]:
    """LeRobot's training script, as far as it is imported; started with `python -m` it is called __main__."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    found = [sys.modules.get(TRAIN_MODULE), main if getattr(spec, "name", None) == TRAIN_MODULE else None]
    return [module for module in found if module is not None]


def _wrap(original: Callable[[TrainPipelineConfig], Any]) -> Callable[[TrainPipelineConfig], Any]:
    @functools.wraps(original)
    def make_train_eval_datasets(cfg: TrainPipelineConfig) -> Any:
        if cfg.resume and hasattr(cfg.policy, "embodiments"):
            _check_embodiments(cfg.policy)
        return make_mixture_datasets(cfg) if is_mixture(cfg.dataset.repo_id) else original(cfg)

    return make_train_eval_datasets


def _check_flags(cfg: TrainPipelineConfig) -> None:
    for name in ("root", "episodes", "revision"):
        if getattr(cfg.dataset, name) is not None:
            raise ValueError(
                f"--dataset.{name} has no meaning for a mixture; set `{name}` of an entry in {cfg.dataset.repo_id}."
            )
    if cfg.dataset.streaming:
        raise ValueError(
            "--dataset.streaming is not supported for a mixture; its datasets are read from disk."
        )
    if cfg.sample_weighting is not None:
        raise ValueError(
            "--sample_weighting works on one dataset; set the `weight` of the mixture's entries instead."
        )
    if cfg.rename_map:
        raise ValueError(
            "--rename_map would leave the masks of a mixture behind; map the `cameras` of its entries."
        )
    if cfg.policy is None:
        raise ValueError("A mixture trains policies, no reward models; pass --policy.type=...")


def _add_embodiments(policy: Any, mixture: MixtureConfig) -> None:
    """Adds a mixture's embodiments to those of the policy, or of its checkpoint, and lets it act for the target's."""
    path, target = policy.pretrained_path, mixture.embodiments[0]
    saved = {} if path is None else Checkpoint(str(path), policy.pretrained_revision).config
    if policy.embodiment not in (None, target, saved.get("embodiment")):
        raise ValueError(
            f"--policy.embodiment is {policy.embodiment!r}, but the policy will act for {target!r}, that of the "
            f"mixture's target {mixture.target_entry.name!r}. Leave the flag out, and set `target` of the mixture."
        )
    given = [] if policy.embodiments == [DEFAULT_EMBODIMENT] else policy.embodiments
    names = dict.fromkeys([*saved.get("embodiments", []), *given, *mixture.embodiments])
    policy.embodiments, policy.embodiment = list(names), target
    logger.info("The policy knows the embodiments %s and acts for %r.", policy.embodiments, target)


def _check_embodiments(policy: Any) -> None:
    """A resumed run has an optimizer state, whose rows are those of the checkpoint."""
    saved = Checkpoint(str(policy.pretrained_path)).config.get("embodiments", [])
    if policy.embodiments != saved or policy.embodiment not in (None, *saved):
        raise ValueError(
            f"`embodiments` is {policy.embodiments} and `embodiment` {policy.embodiment!r}, but the run to resume has "
            f"{saved}. Leave the flags out, or start a new run from the checkpoint with --policy.path."
        )


def _check_resumed(cfg: TrainPipelineConfig, mixture: dict[str, Any]) -> None:
    """Compares with the mixture recorded in the checkpoint."""
    assert cfg.policy is not None
    path = cfg.policy.pretrained_path
    recorded = _recorded_mixture(str(path), cfg.policy.pretrained_revision)
    if recorded is None:
        logger.warning("%s has no %s: whether the mixture is unchanged is not known.", path, MIXTURE_FILE)
        return
    if recorded != json.loads(json.dumps(mixture)):
        raise ValueError(
            f"{cfg.dataset.repo_id} or its datasets changed since {path} was written: "
            f"{_difference(recorded, mixture)}. The order of the data could not be resumed. Restore it, or start "
            "a new run from the checkpoint with --policy.path."
        )


def _recorded_mixture(path: str, revision: str | None) -> dict[str, Any] | None:
    """The `mixture.json` of a checkpoint; None if it was trained on a single dataset, or has none."""
    file = Checkpoint(path, revision).file(MIXTURE_FILE)
    return None if file is None else json.loads(file.read_text())


def _difference(recorded: dict[str, Any], mixture: dict[str, Any]) -> str:
    old = {entry["name"]: entry for entry in recorded["entries"]}
    new = {entry["name"]: entry for entry in mixture["entries"]}
    if list(old) != list(new):
        return f"entries {list(old)} are now {list(new)}"
    for name, entry in new.items():
        changed = [key for key, value in entry.items() if old[name].get(key) != value]
        if changed:
            key = changed[0]
            return f"`{key}` of entry {name!r} was {old[name].get(key)}, is {entry[key]}"
    changed = [key for key in mixture if recorded.get(key) != mixture[key]]
    return f"`{changed[0]}` was {recorded.get(changed[0])}, is {mixture[changed[0]]}"
