"""Converts LeRobot datasets from format v2.0 or v2.1 to v3.0; the original is only read."""

import logging
import shutil
from pathlib import Path
from typing import Any

from lerobot.datasets.utils import DEFAULT_VIDEO_FILE_SIZE_IN_MB

from lerobot_lara.data.upgrade.legacy_conversion import convert_legacy_dataset
from lerobot_lara.data.upgrade.legacy_dataset import info_digest, local_directory, open_legacy_dataset
from lerobot_lara.data.upgrade.verify import MODES, UpgradeMismatchError, resolve_mode, verify_upgrade
from lerobot_lara.files.atomic import sync_files, sync_folder, write_json
from lerobot_lara.files.lock import only_run
from lerobot_lara.files.reading import read_json
from lerobot_lara.files.staging import staging_folder
from lerobot_lara.files.user_path import user_path

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
    """Writes a v3.0 copy of a v2.0 or v2.1 dataset into a new folder.

    Videos are joined without being encoded again. A v2.0 dataset has no statistics of its episodes, and a v2.1 dataset
    may lack some; they are computed as LeRobot does when it records. Cameras whose `names` do not say where the
    channels are get LeRobot's names, without which policies take the height for the number of channels. A rate such as
    3.75 frames per second is kept.

    Everything is written to `<directory>.partial`, and moved once it is complete and verified. To continue an
    interrupted call, repeat it: finished stages are kept, and the statistics resume with the next episode.

    The dataset may come from a stranger: its metadata is checked before anything is written, nothing outside of it is
    read, and nothing is written outside of the two folders.

    Args:
        source: Folder of the dataset, or its id on the Hub, user/name.
        directory: Folder to create; it may exist if it is empty. A dataset that an earlier call with the same source
            has completed there is left as it is.
        revision: Branch, tag or commit on the Hub.
        verify: How much is compared with the original afterwards; see `verify_upgrade`. None is "all" for up to
            20 000 frames and "sample" above.
        video_file_size_in_mb: Approximate size of the video files into which episodes are joined, at least 1.

    Returns:
        The absolute path of `directory`.

    Raises:
        ValueError: The source cannot be upgraded, or the folder holds something else.
        UpgradeMismatchError: The result differs from the original; names the episode, the frame and the key.
    """
    if verify not in (None, *MODES):
        raise ValueError(f"`verify` is {verify!r}; it must be one of {', '.join(MODES)}.")
    if video_file_size_in_mb < 1:
        raise ValueError(f"`video_file_size_in_mb` is {video_file_size_in_mb}; it must be at least 1.")
    root = user_path(directory).resolve()
    staging = staging_folder(root)
    local = local_directory(source)
    if local is not None and any(
        path == local or local in path.parents or path in local.parents for path in (root, staging)
    ):
        raise ValueError(
            f"`directory` is {root}; it must not contain the source {local} or be inside it. Choose another one."
        )
    request = {
        "source": str(local or source),
        "revision": revision,
        "video_file_size_in_mb": video_file_size_in_mb,
    }
    with only_run(root, "directory"):
        return _upgrade(source, root, request, verify=verify)


def _upgrade(source: str | Path, root: Path, request: dict[str, Any], *, verify: str | None) -> Path:
    """Does what `upgrade_dataset` says, once its arguments are known to be possible."""
    staging = staging_folder(root)
    if _is_finished(root, request):
        if (staging / "upgrade.json").is_file() or _is_bare(staging):  # the very last step was interrupted
            _remove(staging)
        logger.info("%s is already complete.", root)
        return root
    _check_staging(staging, request)

    dataset = open_legacy_dataset(source, revision=request["revision"])
    record = {**request, "format": dataset.version, "info_sha256": info_digest(dataset.root)}
    _start(staging, record)
    convert_legacy_dataset(dataset, staging, request["video_file_size_in_mb"])
    mode = resolve_mode(verify, dataset)
    try:
        verify_upgrade(dataset, staging / "dataset", mode=mode)
    except UpgradeMismatchError as error:
        raise UpgradeMismatchError(
            f"{dataset.root}: the upgraded dataset differs from this original: {error}. It was left in {staging}. If "
            "the original is intact, delete that folder and try again, with a smaller video file size if it has videos."
        ) from error
    if mode == "none":
        logger.warning("%s was not compared with the original.", root)

    write_json(staging / "dataset" / RECORD_PATH, {**record, "verified": mode})
    sync_files(staging / "dataset")
    if root.exists():
        root.rmdir()
    (staging / "dataset").rename(root)
    sync_folder(root.parent)
    _remove(staging)
    return root


def _is_finished(root: Path, request: dict[str, Any]) -> bool:
    """Whether an earlier call has completed the upgrade; refuses a folder that holds anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    if not (root / RECORD_PATH).is_file():
        raise ValueError(f"{root} exists and was not written by upgrade-dataset. Choose another folder.")
    record = _read_record(root / RECORD_PATH)
    _check_same(root, record, {key: request[key] for key in ("source", "revision")})
    original = Path(request["source"])
    if original.is_dir() and info_digest(original) != record["info_sha256"]:
        raise ValueError(f"{original} has changed since {root} was made from it. Choose another folder.")
    return True


def _check_staging(staging: Path, record: dict[str, Any]) -> None:
    """Refuses to continue in a folder that is not that of an interrupted call with the same arguments."""
    if not staging.exists() or _is_bare(staging):
        return
    if not (staging / "upgrade.json").is_file():
        raise ValueError(f"{staging} exists and is not an interrupted upgrade. Move it elsewhere.")
    _check_same(staging, _read_record(staging / "upgrade.json"), record)


def _is_bare(staging: Path) -> bool:
    """Whether a folder holds nothing, or only the record that a call was writing when it was killed."""
    return staging.is_dir() and all(path.name == "upgrade.json.partial" for path in staging.iterdir())


def _remove(staging: Path) -> None:
    """Removes the folder of an upgrade, its record last, so that a killed call leaves one that is known."""
    record = staging / "upgrade.json"
    for path in staging.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != record:
            path.unlink()
    record.unlink(missing_ok=True)
    staging.rmdir()


def _read_record(path: Path) -> dict[str, Any]:
    """Reads what an earlier call was asked for."""
    record = read_json(path)
    if not isinstance(record, dict) or not isinstance(record.get("info_sha256"), str):
        raise ValueError(f"{path} was not written by upgrade-dataset. Choose another folder.")
    return record


def _check_same(where: Path, found: dict[str, Any], asked: dict[str, Any]) -> None:
    """Refuses a folder that was written with other arguments."""
    differing = [
        f"`{key}` was {found.get(key)!r} and is now {value!r}"
        for key, value in asked.items()
        if found.get(key) != value
    ]
    if differing:
        raise ValueError(
            f"{where} belongs to another upgrade: {'; '.join(differing)}. Choose another folder, or delete that one."
        )


def _start(staging: Path, record: dict[str, Any]) -> None:
    """Creates the folder of an unfinished upgrade, or checks the one that an interrupted call has left."""
    _check_staging(staging, record)  # again, now that the source has been opened
    staging.mkdir(parents=True, exist_ok=True)
    write_json(staging / "upgrade.json", record)
