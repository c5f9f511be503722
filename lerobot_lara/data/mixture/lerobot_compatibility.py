"""Whether the installed LeRobot treats a mixture as `lerobot_hook` relies on: by trying it, without any data."""

import importlib.metadata
import inspect
import sys
from types import ModuleType
from typing import Any

from lerobot import datasets
from lerobot.datasets import factory

from lerobot_lara.data.mixture.dataset import MixtureDataset
from lerobot_lara.data.mixture.metadata import MixtureMetadata
from lerobot_lara.data.mixture.schedule import DrawSchedule

FUNCTION = "make_train_eval_datasets"
TRAIN_MODULE = "lerobot.scripts.lerobot_train"
TESTED_VERSION = "0.6.1"

# The rehearsal: few draws, so that epochs of it can be compared in full; the last batch of an epoch is not full.
_NUM_FRAMES = (5, 13)
_DROPPED = 3
_SEED = 7
# Steps of an interrupted run, samples per batch and processes.
_INTERRUPTIONS = ((2, 4, 1), (7, 4, 1), (5, 4, 2))


def check_lerobot(repo_id: str) -> None:
    """Makes sure that the installed LeRobot trains on mixtures as intended.

    Args:
        repo_id: The mixture file, for the error.

    Raises:
        ValueError: It does not; says what differs and which version to install.
    """
    found = find_differences()
    if found:
        raise ValueError(
            f"`dataset.repo_id` is {repo_id}, a mixture file, which needs LeRobot {TESTED_VERSION}; LeRobot "
            f"{installed_version()} is installed and differs: {'; '.join(found)}. Install lerobot=={TESTED_VERSION}, "
            "or train on a single dataset."
        )


def find_differences() -> list[str]:
    """Lists how the installed LeRobot differs from what mixtures rely on; empty if it does not."""
    function = getattr(factory, FUNCTION, None)
    if function is None:
        return [f"`lerobot.datasets.factory` has no `{FUNCTION}`"]
    parameters = list(inspect.signature(inspect.unwrap(function)).parameters)
    found = [] if parameters == ["cfg"] else [f"`{FUNCTION}` takes ({', '.join(parameters)}), not (cfg)"]
    for module in train_modules() or [datasets]:
        found += _sampler_differences(module)
    return found


def installed_version() -> str:
    """Version of the installed LeRobot."""
    return importlib.metadata.version("lerobot")


def train_modules() -> list[ModuleType]:
    """LeRobot's training script where it has been imported; started with `python -m` it is called __main__."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    found = [sys.modules.get(TRAIN_MODULE), main if getattr(spec, "name", None) == TRAIN_MODULE else None]
    return [module for module in found if module is not None]


def _sampler_differences(module: ModuleType) -> list[str]:
    """Tries the sampler and the resumption that a module of LeRobot trains with on the metadata of a mixture."""
    names = ("EpisodeAwareSampler", "compute_sampler_state")
    missing = [f"`{module.__name__}` has no `{name}`" for name in names if not hasattr(module, name)]
    if missing:
        return missing
    make_sampler, compute_state = (getattr(module, name) for name in names)
    schedule = DrawSchedule(_NUM_FRAMES, [0.5, 0.5], ["first", "second"])
    try:
        sampler = _rehearsal_sampler(make_sampler, len(schedule))
        epochs = [list(sampler), list(sampler)]
        expected = list(range(len(schedule)))
        if len(sampler) != len(expected) or any(sorted(epoch) != expected for epoch in epochs):
            return [
                f"`EpisodeAwareSampler` does not yield each of the {len(expected)} draws of an epoch once"
            ]
        again = _rehearsal_sampler(make_sampler, len(schedule))
        if [list(again), list(again)] != epochs:
            return ["`EpisodeAwareSampler` does not repeat an order of draws from the same seed"]
        for step, batch_size, num_processes in _INTERRUPTIONS:
            resumed = _rehearsal_sampler(make_sampler, len(schedule))
            resumed.load_state_dict(compute_state(step, len(resumed), batch_size, num_processes))
            steps_per_epoch = -(-len(schedule) // (batch_size * num_processes))
            epoch, done = divmod(step, steps_per_epoch)
            if list(resumed) != epochs[epoch][done * batch_size * num_processes :]:
                return ["`compute_sampler_state` does not resume the order of draws where a run stopped"]
    except Exception as error:  # whatever another version raises
        return [f"`EpisodeAwareSampler` fails on a mixture ({type(error).__name__}: {error})"]
    return []


def _rehearsal_sampler(make_sampler: Any, num_draws: int) -> Any:
    """Builds a sampler from what LeRobot reads of a mixture and its metadata."""
    meta = MixtureMetadata(
        repo_id="rehearsal.yaml",
        features={},
        stats={},
        fps=1,
        robot_type=None,
        tasks=[],
        num_draws=num_draws,
        dropped_draws=_DROPPED,
        total_episodes=len(_NUM_FRAMES),
        total_frames=sum(_NUM_FRAMES),
        description={},
    )
    return make_sampler(
        meta.episodes["dataset_from_index"],
        meta.episodes["dataset_to_index"],
        episode_indices_to_use=MixtureDataset.episodes,
        drop_n_last_frames=_DROPPED,
        shuffle=True,
        seed=_SEED,
        absolute_to_relative_idx=MixtureDataset.absolute_to_relative_idx,
    )
