"""Reads parquet files that others have made: what cannot be read is refused by the file's name."""

import errno
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lerobot_lara.files.reading import check_content, shown

# What the system refuses is not the fault of the file.
_OF_THE_SYSTEM = (
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ESTALE,
)


def read_schema(path: Path) -> pa.Schema:
    """Reads the schema of a parquet file.

    Raises:
        ValueError: It is a Git LFS pointer, cut off, or no parquet file.
    """
    check_content([path])
    try:
        return pq.read_schema(path)
    except Exception as error:  # of damaged bytes, pyarrow makes errors of many kinds
        raise unreadable_table(path, error) from error


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads columns of a parquet file; None reads all of them.

    Raises:
        ValueError: It is damaged.
    """
    try:
        return pq.read_table(path, columns=None if columns is None else list(columns), partitioning=None)
    except Exception as error:
        raise unreadable_table(path, error) from error


def unreadable_table(path: Path, error: Exception) -> Exception:
    """Returns the error for a table that cannot be read; one of the system stays as it is.

    Args:
        path: The table.
        error: What was raised.
    """
    if isinstance(error, OSError) and error.errno in _OF_THE_SYSTEM:
        return error
    return ValueError(
        f"{path} cannot be read as a parquet file ({type(error).__name__}: {shown(error, str)}). Download the dataset "
        "again."
    )
