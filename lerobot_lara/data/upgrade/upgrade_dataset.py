"""Converts LeRobot datasets of the formats v2.0 and v2.1 to v3.0; the original is only ever read."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from lerobot.datasets.utils import DEFAULT_VIDEO_FILE_SIZE_IN_MB

from lerobot_lara.data.upgrade.legacy_conversion import convert_legacy_dataset, write_json
from lerobot_lara.data.upgrade.legacy_dataset import info_digest, local_directory, open_legacy_dataset
from lerobot_lara.data.upgrade.verify import MODES, UpgradeMismatchError, resolve_mode, verify_upgrade

logger = logging.getLogger(__name__)

RECORD_PATH = Path("meta") / "upgrade.json"


def upgrade_dataset(
    source: str | Path,
    directory: str | Path,
    *,
    revision: str | None = None,
    verify: str | None = None,
    video_file_size_in_mb: int = DEFAULT_VIDEO_FILE_SIZE_IN_MB,
) -> Path:
    """Writes a v3.0 copy of a v2.0 or v2.1 dataset into a new directory.

    Videos are joined without re-encoding. A v2.0 dataset has no statistics of single episodes; they are computed as
    LeRobot does when recording. Cameras whose `names` do not say where the channels are get LeRobot's names,
    without which policies take the height for the number of channels. A rate such as 3.75 frames per second stays
    what it is.

    Everything is written to `<directory>.partial` and moved when it is complete and verified, so an interrupted
    call is repeated to continue: finished stages are kept, per-episode statistics go on with the next episode.

    Args:
        source: Directory of the dataset, or its id on the Hub, user/name.
        directory: Directory to create; an empty one may exist. A dataset that an earlier call with the same source
            completed there is left as it is.
        revision: Branch, tag or commit on the Hub.
        verify: How much is compared with the original afterwards, see `verify_upgrade`. None is "all" for up to
            20 000 frames and "sample" above.
        video_file_size_in_mb: Episodes are joined into video files of about this size.

    Returns:
        The absolute path of `directory`.

    Raises:
        ValueError: The source cannot be upgraded, or the directory holds something else; says what was found and
            what to do.
        UpgradeMismatchError: The result differs from the original; names episode, frame and key.
    """
    if verify not in (None, *MODES):
        raise ValueError(f"verify must be one of {', '.join(MODES)}, got {verify!r}")
    if video_file_size_in_mb < 1:
        raise ValueError(f"video_file_size_in_mb must be at least 1, got {video_file_size_in_mb}")
    root = Path(directory).expanduser().resolve()
    staging = root.with_name(f"{root.name}.partial")
    local = local_directory(source)
    if local is not None and any(
        path == local or local in path.parents or path in local.parents for path in (root, staging)
    ):
        raise ValueError(
            f"directory: {root} and the source {local} lie within each other; choose another one"
        )
    request = {
        "source": str(local or source),
        "revision": revision,
        "video_file_size_in_mb": video_file_size_in_mb,
    }
    if _is_finished(root, request):
        if (staging / "upgrade.json").is_file():  # left when the last step of all was interrupted
            shutil.rmtree(staging)
        logger.info("%s is complete already", root)
        return root
    _check_staging(staging, request)

    dataset = open_legacy_dataset(source, revision=revision)
    record = {**request, "format": dataset.version, "info_sha256": info_digest(dataset.root)}
    _start(staging, record)
    convert_legacy_dataset(dataset, staging, video_file_size_in_mb)
    mode = resolve_mode(verify, dataset)
    try:
        verify_upgrade(dataset, staging / "dataset", mode=mode)
    except UpgradeMismatchError as error:
        raise UpgradeMismatchError(
            f"the upgraded dataset differs from {dataset.root}: {error}. It was left in {staging}; if the original "
            "is sound, delete that directory and try again, for videos with a small video file size"
        ) from error
    if mode == "none":
        logger.warning("%s was not compared with the original", root)

    write_json(staging / "dataset" / RECORD_PATH, {**record, "verified": mode})
    if root.exists():
        root.rmdir()
    root.parent.mkdir(parents=True, exist_ok=True)
    (staging / "dataset").rename(root)
    shutil.rmtree(staging)
    return root


def _is_finished(root: Path, request: dict[str, Any]) -> bool:
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    if not (root / RECORD_PATH).is_file():
        raise ValueError(
            f"directory: {root} exists and was not written by upgrade-dataset; choose another one"
        )
    record = json.loads((root / RECORD_PATH).read_text())
    _check_same(root, record, {key: request[key] for key in ("source", "revision")})
    original = Path(request["source"])
    if original.is_dir() and info_digest(original) != record["info_sha256"]:
        raise ValueError(
            f"source: {original} has changed since {root} was made of it; choose another directory"
        )
    return True


def _check_staging(staging: Path, record: dict[str, Any]) -> None:
    if not staging.exists() or (staging.is_dir() and not any(staging.iterdir())):
        return
    if not (staging / "upgrade.json").is_file():
        raise ValueError(f"directory: {staging} is in the way and no interrupted upgrade; move it away")
    _check_same(staging, json.loads((staging / "upgrade.json").read_text()), record)


def _check_same(where: Path, found: dict[str, Any], asked: dict[str, Any]) -> None:
    differing = [
        f"{key} is {found.get(key)!r} there, {value!r} now"
        for key, value in asked.items()
        if found.get(key) != value
    ]
    if differing:
        raise ValueError(
            f"directory: {where} belongs to another upgrade ({'; '.join(differing)}); choose another directory or "
            "delete that one"
        )


def _start(staging: Path, record: dict[str, Any]) -> None:
    _check_staging(staging, record)  # now with what is known of an opened source
    staging.mkdir(parents=True, exist_ok=True)
    write_json(staging / "upgrade.json", record)
