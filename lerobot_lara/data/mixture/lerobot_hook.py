"""Lets `lerobot-train` train on mixtures, and this package's policies on a single dataset as a mixture of one.

LeRobot 0.6.1 has no registry of datasets: `lerobot_train.train` calls `make_train_eval_datasets(cfg)` by name. That
function is wrapped here. The wrapper passes everything else on to LeRobot's own function, and it is installed whatever
the version of LeRobot; whether LeRobot treats mixtures as it should is checked when one is asked for (see
`lerobot_compatibility`).
"""

import functools
import inspect
import logging
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from lerobot.datasets import factory, sampler

from lerobot_lara.data.frame_pair_view import with_frame_pairs
from lerobot_lara.data.label_view import refuse_streaming, with_labels
from lerobot_lara.data.mixture.config import is_mixture
from lerobot_lara.data.mixture.lerobot_compatibility import FUNCTION, check_lerobot, find_differences
from lerobot_lara.data.mixture.resumed_order import resumed_sampler
from lerobot_lara.data.mixture.run_datasets import make_mixture_datasets, make_single_datasets
from lerobot_lara.data.mixture.run_policy import prepare_policy, with_tokenizer

logger = logging.getLogger(__name__)

# LeRobot's sampler, which its training script has under this name.
SAMPLER = "EpisodeAwareSampler"
# Makes a single dataset. Where a LeRobot without `FUNCTION` calls this one, a mixture is refused with a clear error.
SINGLE_FUNCTION = "make_dataset"


def install() -> None:
    """Wraps LeRobot's dataset factory wherever it has been imported; calling this again changes nothing."""
    _wrap_everywhere(FUNCTION, _wrap)
    _wrap_everywhere(SINGLE_FUNCTION, _wrap_single)


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
        _forget_resumed_sampler()
        prepare_policy(cfg)
        if is_mixture(cfg.dataset.repo_id):
            made = make_mixture_datasets(cfg)
        else:
            labeled = getattr(cfg.policy, "label_request", None) is not None
            if labeled:
                refuse_streaming(cfg)
            ours = _is_ours_to_read(cfg)
            made = make_single_datasets(cfg) if ours else original(*args, **kwargs)
            if getattr(cfg.policy, "frame_pair_apart", False):
                made = with_frame_pairs(made, cfg)
            if labeled and not ours:
                made = with_labels(made, cfg)
        cfg.policy = with_tokenizer(cfg.policy, getattr(made[0], "meta", None))
        _set_sampler(resumed_sampler(cfg))
        return made

    return make_train_eval_datasets


def _forget_resumed_sampler() -> None:
    """Takes back that of an earlier training in this process: it would put a random state back when tried."""
    for module in _lerobot_modules():
        if getattr(vars(module).get(SAMPLER), "__module__", None) == resumed_sampler.__module__:
            setattr(module, SAMPLER, sampler.EpisodeAwareSampler)


def _set_sampler(sampler_class: type[sampler.EpisodeAwareSampler]) -> None:
    """Lets the modules that have imported LeRobot's sampler use a class."""
    for module in _lerobot_modules():
        if SAMPLER in vars(module) and module is not sampler:
            setattr(module, SAMPLER, sampler_class)


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


def _is_ours_to_read(cfg: Any) -> bool:
    """Whether a single dataset is read as a mixture of one; every other goes to LeRobot's own function."""
    if not getattr(cfg.policy, "supports_mixtures", False):
        return False
    if cfg.dataset.repo_type == "bucket" and not cfg.dataset.streaming:
        return False  # which LeRobot refuses
    if cfg.dataset.streaming:
        logger.warning(
            "`dataset.streaming` is true, so %s is read by LeRobot itself, without the checks of its values.",
            cfg.dataset.repo_id,
        )
        return False
    if found := find_differences():
        logger.warning(
            "%s is read by LeRobot itself, without the checks of its values, as this LeRobot is not the one that "
            "mixtures need: %s.",
            cfg.dataset.repo_id,
            "; ".join(found),
        )
        return False
    return True


def _run_config(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The argument that configures a run, wherever this version of LeRobot puts it; None if there is none."""
    arguments = (*args, *kwargs.values())
    return next((each for each in arguments if hasattr(getattr(each, "dataset", None), "repo_id")), None)
