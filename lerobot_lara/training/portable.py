"""What only one machine knows: paths that have no place in a checkpoint that travels."""

from pathlib import Path


def is_local(name: str | Path | None) -> bool:
    """Whether a name is that of a file or folder on this machine, not a Hub id or preset."""
    if name is None:
        return False
    path = Path(name).expanduser()
    return path.is_absolute() or str(name).startswith((".", "~")) or path.exists()
