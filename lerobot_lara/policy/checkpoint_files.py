"""Files of a policy checkpoint, in a folder or on the Hub."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from lerobot_lara.files.checkpoint_reading import read_json_object

# Arguments of LeRobot's `from_pretrained` that say how to download.
DOWNLOAD = ("token", "cache_dir", "local_files_only", "force_download")


@dataclass(frozen=True)
class Checkpoint:
    """Where a checkpoint lies.

    Args:
        path: Folder or Hub id.
        revision: Branch, tag or commit on the Hub.
        download: Further arguments of `hf_hub_download`, those that `DOWNLOAD` names.
    """

    path: str
    revision: str | None = None
    download: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)

    @classmethod
    def of(cls, path: str | Path, arguments: Mapping[str, Any]) -> "Checkpoint":
        """Returns the checkpoint that `from_pretrained(path, **arguments)` loads."""
        download = {name: arguments[name] for name in DOWNLOAD if arguments.get(name) is not None}
        return cls(str(path), arguments.get("revision"), download)

    def file(self, name: str) -> Path | None:
        """Returns the local path of one file, downloaded if need be; None if the checkpoint lacks it.

        Raises:
            ValueError: Offline, a file of a Hub checkpoint has never been downloaded, so that nobody knows.
        """
        if Path(self.path).is_dir():
            file = Path(self.path) / name
            return file if file.is_file() else None
        try:
            return Path(hf_hub_download(self.path, name, revision=self.revision, **self.download))
        except LocalEntryNotFoundError as error:
            cached = try_to_load_from_cache(
                self.path, name, cache_dir=self.download.get("cache_dir"), revision=self.revision
            )
            if cached is _CACHED_NO_EXIST:
                return None
            raise ValueError(
                f"{self.path} is not a folder, and {name} of that Hub id is not in the cache. Go online once to "
                "download it, or give a folder."
            ) from error
        except EntryNotFoundError:
            return None

    @property
    def is_readable(self) -> bool:
        """Whether it has a config.json that can be had now."""
        try:
            return self.file("config.json") is not None
        except (ValueError, OSError):
            return False

    @cached_property
    def config(self) -> dict[str, Any]:
        """`config.json` as it was saved, whatever the flags of this run say.

        Raises:
            ValueError: The checkpoint has none, or it is no JSON object.
        """
        file = self.file("config.json")
        if file is None:
            raise ValueError(
                f"{self.path} has no config.json. Name the folder `pretrained_model` of a checkpoint."
            )
        return read_json_object(file)


def download_checkpoint(checkpoint: str | Path) -> Path:
    """The folder of a checkpoint; one of the Hub is downloaded, without what no policy reads.

    Args:
        checkpoint: Folder or Hub id.
    """
    if Path(checkpoint).is_dir():
        return Path(checkpoint)
    return Path(snapshot_download(str(checkpoint), allow_patterns=["*.json", "*.safetensors"]))
