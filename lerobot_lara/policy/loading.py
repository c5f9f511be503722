"""The mode that a policy is built in: new, loaded to train on, or loaded to act.

A policy's constructor asks for it here. It is no argument, as the constructors and `from_pretrained`s of LeRobot's own
policies, which an alignment may stand before, do not all pass arguments on.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from lerobot_lara.policy.checkpoint_files import Checkpoint


@dataclass(frozen=True)
class Loading:
    """What a policy is loaded from, and for what.

    Args:
        checkpoint: The checkpoint.
        to_train: Whether it is trained further. A policy that only acts has no latent action model, is not compiled
            and keeps no gradients.
    """

    checkpoint: Checkpoint
    to_train: bool


_current: ContextVar[Loading | None] = ContextVar("loading", default=None)


def current_loading() -> Loading | None:
    """Returns how the policy under construction is loaded; None if it is a new one, which trains."""
    return _current.get()


@contextmanager
def loading(checkpoint: Checkpoint, *, to_train: bool) -> Iterator[Loading]:
    """Sets the mode of the policies that are built inside.

    Args:
        checkpoint: See `Loading`.
        to_train: See `Loading`.

    Yields:
        The mode.
    """
    mode = Loading(checkpoint, to_train)
    token = _current.set(mode)
    try:
        yield mode
    finally:
        _current.reset(token)
