"""Files that are, at any moment, the old one or the new one as a whole, even if the process or the machine stops.

A file is written under a temporary name, `<name>.partial`, in the same folder, and renamed once it is on disk. What a
killed process has left under that name is overwritten by the next one.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yields the temporary path to write, which becomes `path` if nothing is raised, and is removed otherwise.

    Args:
        path: The file; its folder exists.
    """
    partial = partial_path(path)
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def partial_path(path: Path) -> Path:
    """The temporary name of a file."""
    return path.with_name(f"{path.name}.partial")


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8."""
    with replaced_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any, *, indent: int = 2) -> None:
    """Writes a JSON file, and creates its folder if necessary.

    Names that are not UTF-8 are kept: what Python stands in for their bytes (surrogates, PEP 383) is written as JSON
    escapes, and `os.fsencode` turns it into the bytes again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=indent, ensure_ascii=False) + "\n"
    with replaced_file(path) as partial:
        # Its escapes of surrogates are those of JSON.
        partial.write_bytes(text.encode("utf-8", "backslashreplace"))


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on disk."""
    if os.name == "nt":  # which cannot open folders, and writes names in order
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_files(folder: Path) -> None:
    """Waits until all files in a folder and its subfolders, with their names, are on disk."""
    for parent, _, files in os.walk(folder):
        for name in files:
            with open(os.path.join(parent, name), "rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(parent))
