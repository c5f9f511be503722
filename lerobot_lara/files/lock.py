"""Keeps two commands from writing the same output at the same time."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK})
"""Errors of file systems that cannot lock."""
_PATIENCE_S = 0.2


@contextmanager
def only_run(path: Path, name: str) -> Iterator[None]:
    """Holds the lock `<path>.lock` while the body runs; the operating system frees the lock of a killed process.

    Args:
        path: File or folder that the body writes; its parent is created if necessary, and removed if it stays empty.
        name: The argument that names it, for the error.

    Raises:
        ValueError: Another process holds the lock.
    """
    path = path.resolve()
    created = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_name(f"{path.name}.lock")
    lock = FileLock(file)
    try:
        # Not a single try, as it may find the file of a run that is just removing it.
        lock.acquire(timeout=_PATIENCE_S)
    except Timeout as error:
        raise ValueError(
            f"`{name}` is {path}, which another run is writing now; it must be free. Wait until that run has ended, or "
            "choose another place."
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logger.warning("%s cannot be locked: make sure that no other run writes it.", path)
        yield
        return
    try:
        yield
    finally:
        # While it is locked: whoever has opened it sees that it is gone, and tries again.
        file.unlink(missing_ok=True)
        lock.release()
        _remove_empty(created)


def _remove_empty(folders: list[Path]) -> None:
    """Removes folders that were created for the lock, the innermost first, unless something was written there."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return
