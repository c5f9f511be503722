"""Paths as users write them."""

import os
from pathlib import Path


def user_path(path: str | Path) -> Path:
    """The path with `~` replaced by the home folder.

    Unlike `Path.expanduser`, it leaves the name of a user that does not exist as it is: the path is then reported as
    one that is missing.
    """
    return Path(os.path.expanduser(path))
