"""Files of a policy checkpoint, in a folder or on the Hub."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError


@dataclass(frozen=True)
class Checkpoint:
    """Where a checkpoint lies.

    Args:
        path: Folder or Hub id.
        revision: Branch, tag or commit on the Hub.
    """

    path: str
    revision: str | None = None

    def file(self, name: str) -> Path | None:
        """Returns the local path of one file, downloaded if need be; None if the checkpoint lacks it."""
        if Path(self.path).is_dir():
            file = Path(self.path) / name
            return file if file.is_file() else None
        try:
            return Path(hf_hub_download(self.path, name, revision=self.revision))
        except EntryNotFoundError:
            return None

    @cached_property
    def config(self) -> dict[str, Any]:
        """`config.json` as it was saved, whatever the flags of this run say.

        Raises:
            ValueError: The checkpoint has none, or it is no JSON.
        """
        file = self.file("config.json")
        if file is None:
            raise ValueError(
                f"{self.path} has no config.json. Name the folder `pretrained_model` of a checkpoint."
            )
        try:
            return json.loads(file.read_text())
        except ValueError as error:
            raise ValueError(f"{file} is not valid JSON ({error}). Copy or download it again.") from error
