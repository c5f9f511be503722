"""The dataset of a video import: its settings and its manifest."""

import json
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

MANIFEST_PATH = Path("meta") / "import_video.json"
"""In the dataset's folder: the settings of the import and, for each episode, the clip that it came from."""
ERRORS_PATH = Path("meta") / "import_errors.json"
"""In the dataset's folder: {clip: reason} for what the last import left out; absent if it left out nothing."""
MIN_VIDEO_SIDE = 32
"""LeRobot's default video encoder, SVT-AV1, crashes on much smaller frames."""


@dataclass(frozen=True)
class ImportSettings:
    """What all episodes of a dataset have in common; see `import_video` for the fields.

    The last two may be absent from the manifest of an older dataset.
    """

    fps: int
    height: int
    width: int
    fit: Literal["crop", "pad"]
    storage: Literal["video", "image"]
    camera_key: str
    robot_type: str | None
    resampled: bool = False
    window_s: float | None = None


def dataset_root(repo_id: str, root: str | Path | None) -> Path:
    """Returns the folder of the dataset.

    Args:
        repo_id: Name of the dataset, "user/name".
        root: The folder; None is the dataset's folder in LeRobot's home.

    Raises:
        ValueError: The Hub would refuse the name.
    """
    from huggingface_hub.utils import validate_repo_id
    from lerobot.utils.constants import HF_LEROBOT_HOME

    validate_repo_id(repo_id)
    return HF_LEROBOT_HOME / repo_id if root is None else Path(root)


def read_manifest(path: Path) -> tuple[ImportSettings, dict[str, Any]]:
    """Reads and checks the manifest of a dataset, or of an import that was stopped.

    Returns:
        The settings, and the whole content; `clips`, if it is there, is a list of names.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not a manifest.
    """
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(_not_a_manifest(path, f"it is not JSON ({error})")) from error
    except RecursionError as error:
        raise ValueError(_not_a_manifest(path, "it is nested too deeply")) from error
    if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
        raise ValueError(_not_a_manifest(path, "it has no `settings`"))
    clips = content.get("clips", [])
    if not isinstance(clips, list) or not all(isinstance(name, str) for name in clips):
        raise ValueError(_not_a_manifest(path, "`clips` is not a list of names"))
    settings, types = content["settings"], get_type_hints(ImportSettings)
    known = {field.name: field for field in fields(ImportSettings)}
    for name in settings.keys() | known.keys():
        if name not in known:
            raise ValueError(_not_a_manifest(path, f"the setting {name!r} is unknown"))
        if name not in settings:
            if known[name].default is MISSING:
                raise ValueError(_not_a_manifest(path, f"the setting `{name}` is missing"))
        elif not _has_type(settings[name], types[name]):
            raise ValueError(_not_a_manifest(path, f"the setting `{name}` is {settings[name]!r}"))
    return ImportSettings(**settings), content


def check_settings(settings: ImportSettings, before: ImportSettings | None) -> None:
    """Checks the settings of an import.

    Args:
        settings: The settings.
        before: Settings of the dataset to which clips are added; None for a new one.

    Raises:
        ValueError: Frames are too small to be encoded, or the settings differ from those of the dataset.
    """
    if settings.storage == "video" and min(settings.height, settings.width) < MIN_VIDEO_SIDE:
        raise ValueError(
            f"`size` is {settings.height}x{settings.width} (height x width); it must be at least {MIN_VIDEO_SIDE} "
            "pixels per side for the video encoder. Choose a larger one, or `storage=image`."
        )
    if before is not None and settings != before:
        old = asdict(before)
        changes = [
            f"`{key}` was {old[key]!r} and is now {value!r}"
            for key, value in asdict(settings).items()
            if value != old[key]
        ]
        raise ValueError(
            f"`resume` is set, but the options would change the dataset: {'; '.join(changes)}. Repeat the options of "
            "the first import."
        )


def _has_type(value: object, expected: Any) -> bool:
    """Whether a value that was read from JSON has the type of a field: a class, literals, or a union of those."""
    if isinstance(expected, type):
        return isinstance(value, int | float if expected is float else expected) and (
            expected is bool or not isinstance(value, bool)
        )
    return any(
        value == item if isinstance(item, str) else _has_type(value, item) for item in get_args(expected)
    )


def _not_a_manifest(path: Path, problem: str) -> str:
    """The error for a file that is not a manifest."""
    return (
        f"{path}: {problem}, so it was not written by a video import, or has been changed. Set `overwrite` to start "
        "over, or choose another `root`."
    )
