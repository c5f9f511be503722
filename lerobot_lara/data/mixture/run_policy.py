"""The policy that a run of `lerobot-train` starts with: its embodiments, and what a resumed run must keep."""

import logging
from dataclasses import fields, replace
from typing import Any

from lerobot.configs.train import TrainPipelineConfig

from lerobot_lara.batch.embodiments import DEFAULT_EMBODIMENT
from lerobot_lara.data.mixture.config import MixtureConfig, is_mixture
from lerobot_lara.policy.checkpoint_files import Checkpoint
from lerobot_lara.policy.embodiments import embodiments_to_train

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
    _check_not_aligned(policy, checkpoint)
    if cfg.resume and hasattr(policy, "embodiments"):
        _check_embodiments(policy)
    if cfg.resume:
        _check_trained_parts(policy, checkpoint)
    if cfg.resume and hasattr(policy, "lam_path") and checkpoint.file("lam/config.json") is not None:
        cfg.policy = _with(policy, lam_path=checkpoint.config["lam_path"])
    if getattr(policy, "predict_actions", False) and not checkpoint.config.get("predict_actions", True):
        # Video that it was pre-trained on has no state: LeRobot takes the features of the new data.
        cfg.policy = _with(policy, input_features={})
    if not cfg.resume and hasattr(policy, "grow_embodiments") and not is_mixture(cfg.dataset.repo_id):
        names, name = embodiments_to_train(policy, checkpoint.config, grow=policy.grow_embodiments)
        if policy.grow_embodiments or (names, name) != (policy.embodiments, policy.embodiment):
            cfg.policy = _with(policy, embodiments=names, embodiment=name, grow_embodiments=False)


def _check_not_aligned(policy: Any, checkpoint: Checkpoint) -> None:
    """Refuses an aligned checkpoint for the plain base, which would take its weights without a word and go on alone."""
    if hasattr(policy, "lam_path") or not checkpoint.is_readable:
        return
    saved = checkpoint.config.get("type")
    if saved == f"lara_{policy.type}":
        raise ValueError(
            f"{checkpoint.path} is a checkpoint of type {saved!r}; it must be of type {policy.type!r} for "
            f"--policy.type={policy.type}. Write one with `lara export-base {checkpoint.path} <folder>`, or train on "
            f"with --policy.path={checkpoint.path}."
        )


def with_label_source(policy: Any, mixture: MixtureConfig) -> Any:
    """Lets a policy that says nothing else be aligned to the labels that the mixture's entries name.

    Args:
        policy: A configuration.
        mixture: The mixture.

    Returns:
        The configuration, or a copy whose `alignment_source` or `latent_source` is "labels".
    """
    labeled = any(entry.labels is not None for entry in mixture.used_entries)
    name = next((name for name in ("alignment_source", "latent_source") if hasattr(policy, name)), None)
    if not labeled or name is None or getattr(policy, name) is not None:
        return policy
    return _with(policy, **{name: "labels"})


def with_tokenizer(policy: Any, meta: Any) -> Any:
    """Lets a policy of codes know their number and what made them, before LeRobot builds and records it.

    Args:
        policy: A configuration.
        meta: Metadata of the training set, with the manifest of its labels.

    Returns:
        The configuration, or a copy for the tokenizer of the labels or of the model that computes codes as it trains.

    Raises:
        ValueError: The configuration, of a checkpoint for example, is for another tokenizer; or the model has no codes.
    """
    find = getattr(policy, "find_tokenizer", None)
    return policy if find is None else _with(policy, **find(getattr(meta, "latent_labels", None)))


def _with(policy: Any, **changes: Any) -> Any:
    """A copy of a configuration with other values, and with what was set on it beside its fields."""
    changed = replace(policy, **changes)
    declared = {field.name for field in fields(policy)}
    vars(changed).update({name: value for name, value in vars(policy).items() if name not in declared})
    return changed


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
