"""Lets `lerobot-train --dataset.repo_id=<mixture>.yaml` train on a mixture.

LeRobot 0.6.1 has no registry of datasets: `lerobot_train.train` calls `make_train_eval_datasets(cfg)` by name. That
function is wrapped here. The wrapper passes everything on to LeRobot's own function unless a YAML file is asked for,
and it is installed whatever the version of LeRobot; whether LeRobot treats mixtures as it should is checked when one is
asked for (see `lerobot_compatibility`).
"""

import functools
import inspect
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from types import ModuleType
from typing import Any

import torch
from lerobot.configs.train import TrainPipelineConfig
from lerobot.datasets import factory, sampler
from lerobot.transforms import ImageTransforms
from lerobot.utils.constants import IMAGENET_STATS

from lerobot_lara.batch.embodiments import DEFAULT_EMBODIMENT
from lerobot_lara.data.mixture.build import build_mixture
from lerobot_lara.data.mixture.config import MixtureConfig, load_mixture
from lerobot_lara.data.mixture.lerobot_compatibility import FUNCTION, check_lerobot
from lerobot_lara.data.resumed_order import resumed_sampler
from lerobot_lara.policy.checkpoint_files import Checkpoint
from lerobot_lara.policy.embodiments import embodiments_to_train
from lerobot_lara.policy.mixture_record import MIXTURE_FILE

logger = logging.getLogger(__name__)

# Fields of a policy that decide which parameters are trained.
FIXED_ON_RESUME = (
    "freeze_lam",
    "freeze_vision_encoder",
    "freeze_frame_encoder",
    "alignment_head",
    "vlm_trained_layers",
    "vlm_lora_rank",
)

# LeRobot's sampler, which its training script has under this name.
SAMPLER = "EpisodeAwareSampler"
# Makes a single dataset. Where a LeRobot without `FUNCTION` calls this one, a mixture is refused with a clear error.
SINGLE_FUNCTION = "make_dataset"


def is_mixture(repo_id: Any) -> bool:
    """Whether `--dataset.repo_id` names a mixture file."""
    return isinstance(repo_id, str) and repo_id.lower().endswith((".yaml", ".yml"))


def install() -> None:
    """Wraps LeRobot's dataset factory wherever it has been imported; calling this again changes nothing."""
    _wrap_everywhere(FUNCTION, _wrap)
    _wrap_everywhere(SINGLE_FUNCTION, _wrap_single)


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
    _check_flags(cfg)
    mixture = load_mixture(cfg.dataset.repo_id)
    if hasattr(cfg.policy, "embodiments") and not cfg.resume:
        # LeRobot builds the policy from `cfg.policy` after the datasets, so this is where it learns of new robots.
        cfg.policy = add_embodiments(cfg.policy, mixture)
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
    if cfg.resume:
        _check_resumed(cfg, training.meta.mixture)
    if cfg.dataset.use_imagenet_stats:
        for camera in training.meta.camera_keys:
            for name, values in IMAGENET_STATS.items():
                training.meta.stats[camera][name] = torch.tensor(values, dtype=torch.float32)
    return training, held_out


def add_embodiments(policy: Any, mixture: MixtureConfig) -> Any:
    """Adds a mixture's embodiments to a policy, which then acts for that of the reference dataset.

    Args:
        policy: A configuration with the fields `embodiments` and `embodiment`. With a `pretrained_path`, the
            embodiments of that checkpoint come first.
        mixture: The mixture.

    Returns:
        A copy of the configuration.

    Raises:
        ValueError: `embodiment` names another robot than that of the reference dataset.
    """
    path, acting = policy.pretrained_path, mixture.embodiments[0]
    saved = {} if path is None else Checkpoint(str(path), policy.pretrained_revision).config
    if policy.embodiment not in (None, acting, saved.get("embodiment")):
        raise ValueError(
            f"`embodiment` is {policy.embodiment!r}; it must be {acting!r}, that of the reference dataset "
            f"{mixture.reference_entry.name!r}, for which the policy will act. Leave --policy.embodiment out, or set "
            "`reference` in the mixture file."
        )
    given = [] if policy.embodiments == [DEFAULT_EMBODIMENT] else policy.embodiments
    names = list(dict.fromkeys([*saved.get("embodiments", []), *given, *mixture.embodiments]))
    logger.info("The policy knows the embodiments %s and acts for %r.", names, acting)
    return _with(policy, embodiments=names, embodiment=acting)


def prepare_policy(cfg: TrainPipelineConfig) -> None:
    """Lets `cfg.policy` say what the checkpoint that it starts from says, before LeRobot builds and records it.

    A copy replaces it. A resumed run keeps its checkpoint's own latent action model, whatever path it once started
    from; a new run on one dataset knows a new embodiment from the start.

    Raises:
        ValueError: A resumed run has other embodiments than its checkpoint.
    """
    policy: Any = cfg.policy
    if getattr(policy, "pretrained_path", None) is None:
        return
    checkpoint = Checkpoint(str(policy.pretrained_path), getattr(policy, "pretrained_revision", None))
    if cfg.resume and hasattr(policy, "embodiments"):
        _check_embodiments(policy)
    if cfg.resume:
        _check_trained_parts(policy, checkpoint)
    if cfg.resume and hasattr(policy, "lam_path") and checkpoint.file("lam/config.json") is not None:
        cfg.policy = _with(policy, lam_path=checkpoint.config["lam_path"])
    if not cfg.resume and hasattr(policy, "grow_embodiments") and not is_mixture(cfg.dataset.repo_id):
        names, name = embodiments_to_train(policy, checkpoint.config, grow=policy.grow_embodiments)
        if policy.grow_embodiments or (names, name) != (policy.embodiments, policy.embodiment):
            cfg.policy = _with(policy, embodiments=names, embodiment=name, grow_embodiments=False)


def _with(policy: Any, **changes: Any) -> Any:
    """A copy of a configuration with other values, and with what was set on it beside its fields."""
    changed = replace(policy, **changes)
    declared = {field.name for field in fields(policy)}
    vars(changed).update({name: value for name, value in vars(policy).items() if name not in declared})
    return changed


def _wrap_everywhere(name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Wraps a function of LeRobot's dataset factory there and in the modules that have imported it."""
    function = getattr(factory, name, None)
    if function is None:
        return
    original = inspect.unwrap(function)
    wrapped = wrap(original)
    for module in _lerobot_modules():
        # Not `getattr`, which may import what a module loads lazily.
        if name in vars(module) and inspect.unwrap(vars(module)[name]) is original:
            setattr(module, name, wrapped)


def _lerobot_modules() -> list[ModuleType]:
    """LeRobot's imported modules; a script of it that was started with `python -m` is called __main__."""
    modules = list(sys.modules.items())
    return [module for name, module in modules if name == "__main__" or name.split(".")[0] == "lerobot"]


def _wrap(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def make_train_eval_datasets(*args: Any, **kwargs: Any) -> Any:
        cfg = _run_config(args, kwargs)
        if cfg is None:
            return original(*args, **kwargs)
        prepare_policy(cfg)
        for module in _lerobot_modules():
            if SAMPLER in vars(module) and module is not sampler:
                setattr(module, SAMPLER, resumed_sampler(cfg))
        return make_mixture_datasets(cfg) if is_mixture(cfg.dataset.repo_id) else original(*args, **kwargs)

    return make_train_eval_datasets


def _wrap_single(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def make_dataset(*args: Any, **kwargs: Any) -> Any:
        cfg = _run_config(args, kwargs)
        if cfg is not None and is_mixture(cfg.dataset.repo_id):
            check_lerobot(cfg.dataset.repo_id)
            raise ValueError(
                f"`dataset.repo_id` is {cfg.dataset.repo_id}, a mixture file; it must be a single dataset here. "
                "Mixtures work with `lerobot-train`, for policies."
            )
        return original(*args, **kwargs)

    return make_dataset


def _run_config(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The argument that configures a run, wherever this version of LeRobot puts it; None if there is none."""
    arguments = (*args, *kwargs.values())
    return next((each for each in arguments if hasattr(getattr(each, "dataset", None), "repo_id")), None)


def _check_flags(cfg: TrainPipelineConfig) -> None:
    """Refuses flags of `lerobot-train` that do not apply to a mixture."""
    for name in ("root", "episodes", "revision"):
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
    if cfg.policy is None:
        raise ValueError(
            "`policy` is not set; it must be for a mixture, which trains policies and no reward models. Pass "
            "--policy.type=..."
        )


def _check_embodiments(policy: Any) -> None:
    """Compares the embodiments of a resumed run with its checkpoint's, whose optimizer state has a row for each."""
    saved = Checkpoint(str(policy.pretrained_path)).config.get("embodiments", [])
    if policy.embodiments != saved or policy.embodiment not in (None, *saved):
        raise ValueError(
            f"`embodiments` is {policy.embodiments} and `embodiment` {policy.embodiment!r}, but the run to resume has "
            f"{saved}. Leave the flags out, or start a new run from the checkpoint with --policy.path."
        )


def _check_trained_parts(policy: Any, checkpoint: Checkpoint) -> None:
    """Refuses what would change which parameters a resumed optimizer has."""
    for name in FIXED_ON_RESUME:
        if hasattr(policy, name) and name in checkpoint.config:
            saved, given = checkpoint.config[name], getattr(policy, name)
            if given != saved:
                raise ValueError(
                    f"`{name}` is {given!r}; it must be {saved!r}, as in the run to resume, whose optimizer has other "
                    "parameters. Leave the flag out, or start a new run from the checkpoint with --policy.path."
                )


def _check_resumed(cfg: TrainPipelineConfig, mixture: dict[str, Any]) -> None:
    """Compares the mixture with the one that the checkpoint of a resumed run recorded."""
    assert cfg.policy is not None
    path = cfg.policy.pretrained_path
    recorded = _recorded_mixture(str(path), cfg.policy.pretrained_revision)
    if recorded is None:
        logger.warning(
            "%s has no %s, so it is not known whether the mixture has changed.", path, MIXTURE_FILE
        )
        return
    if recorded != json.loads(json.dumps(mixture)):
        raise ValueError(
            f"{cfg.dataset.repo_id}: the mixture or its datasets have changed since {path} was written: "
            f"{_difference(recorded, mixture)}. The order of the data could not be resumed. Restore the mixture, or "
            "start a new run from the checkpoint with --policy.path."
        )


def _recorded_mixture(path: str, revision: str | None) -> dict[str, Any] | None:
    """The `mixture.json` of a checkpoint; None if it has none, as after training on a single dataset."""
    file = Checkpoint(path, revision).file(MIXTURE_FILE)
    return None if file is None else json.loads(file.read_text())


def _difference(recorded: dict[str, Any], mixture: dict[str, Any]) -> str:
    """Describes the first difference between two records of a mixture."""
    old = {entry["name"]: entry for entry in recorded["entries"]}
    new = {entry["name"]: entry for entry in mixture["entries"]}
    if list(old) != list(new):
        return f"the entries {list(old)} are now {list(new)}"
    for name, entry in new.items():
        changed = [key for key, value in entry.items() if old[name].get(key) != value]
        if changed:
            key = changed[0]
            return f"`{key}` of entry {name!r} was {old[name].get(key)} and is now {entry[key]}"
    changed = [key for key in mixture if recorded.get(key) != mixture[key]]
    return f"`{changed[0]}` was {recorded.get(changed[0])} and is now {mixture[changed[0]]}"
