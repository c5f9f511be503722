"""Keeps what is read inside of a dataset, and what is written inside of an output."""

import os
from pathlib import Path


def check_source_file(path: Path, root: Path) -> None:
    """Checks that links do not lead out of a dataset, whose author could otherwise name any file of this machine.

    Args:
        path: A file of the dataset.
        root: Folder of the dataset. In the Hub's cache, which consists of links, the files of the same repository
            belong to it.

    Raises:
        ValueError: The file lies elsewhere.
    """
    target = Path(os.path.realpath(path))
    folders = [Path(os.path.realpath(root))]
    if root.parent.name == "snapshots" and root.parents[1].name.startswith("datasets--"):
        folders.append(Path(os.path.realpath(root.parents[1])) / "blobs")
    if not any(target.is_relative_to(folder) for folder in folders):
        raise ValueError(
            f"{path} leads to {target}, which is outside of the dataset {root}; links must stay inside. If you trust "
            "that file, replace the link with a copy of it; otherwise remove the link."
        )


def inside(path: Path, folder: Path) -> Path:
    """Returns a path that is about to be written, after checking that it lies in the folder of the output.

    Args:
        path: What is written.
        folder: Folder of the output.

    Raises:
        ValueError: It lies elsewhere, because of its name or of a link.
    """
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise ValueError(
            f"{path} leads to {os.path.realpath(path)}, which is outside of the output {folder}; nothing is written "
            "there. Remove links from that folder, or choose another one."
        )
    return path
