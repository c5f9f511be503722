"""Files of a policy checkpoint, in a folder or on the Hub."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download


def checkpoint_file(checkpoint: str | Path, name: str, revision: str | None = None) -> Path:
    """Local path of a checkpoint's file; downloaded if `checkpoint` is a Hub id.

    In a folder the file may be absent; on the Hub that is huggingface_hub's EntryNotFoundError.
    """
    if Path(checkpoint).is_dir():
        return Path(checkpoint) / name
    return Path(hf_hub_download(str(checkpoint), name, revision=revision))


def read_config(checkpoint: str | Path, revision: str | None = None) -> dict[str, Any]:
    """A checkpoint's config.json as it was saved, whatever the flags of this run say."""
    return json.loads(checkpoint_file(checkpoint, "config.json", revision).read_text())
