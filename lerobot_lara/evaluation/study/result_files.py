"""Reads what the jobs of a study have written; a file that is torn or odd is named, with the way to have it again."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lerobot_lara.files.reading import read_json_object, shown

_REMEDY = "Delete it, and run the same command again: what it takes to write it is then done again."


@contextmanager
def reading_result(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the content of a JSON file; what the body does not find in it is the file's fault.

    Args:
        path: The file.

    Raises:
        ValueError: The file is missing, is no JSON object, or does not hold what the body reads.
    """
    if not path.is_file():
        raise ValueError(
            f"{path} is missing. Run the same command again: what it takes to write it is then done."
        )
    content = read_json_object(path, remedy=_REMEDY)
    try:
        yield content
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ValueError(
            f"{path} does not hold what was written there ({type(error).__name__}: {shown(error, str)}). {_REMEDY}"
        ) from error
