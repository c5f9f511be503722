"""The Open X-Embodiment datasets that Octo and OpenVLA train on, and mixture files made from them."""

import functools
import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lerobot_lara.files.atomic import write_text
from lerobot_lara.files.user_path import user_path

DEFAULT_FRAME_GAP_S = 1.0
IMAGE_SIZE = (224, 224)
CAMERA_PREFIX = "observation.images."
_REFERENCE = "bridge_orig"  # policies trained on these mixtures are usually evaluated on its robot
_STATE_GRIPPER = 7
_ACTION_GRIPPER = 6


@dataclass(frozen=True)
class OXEDataset:
    """A dataset of the table in oxe.yaml; None is unknown.

    Args:
        name: Name of the RLDS dataset, shortened as on the Hub.
        fps: Frames, states and actions per second.
        robot: Robot, in lower case.
        state: Meaning of the state's 8 numbers: "eef_euler", "eef_axis_angle", "eef_quaternion", "joints" or "none".
        state_gripper: What a large value of the state's last number means: "open", "closed" or "none".
        action_gripper: What a large value of the action's last number, the seventh, means.
        primary: Name of the camera that looks at the scene; None if there is none.
        wrist: Name of the camera at the wrist; None if there is none.
        revision: Commit on the Hub that is known to have been used.
    """

    name: str
    fps: float
    robot: str
    state: str | None
    state_gripper: str | None
    action_gripper: str | None
    primary: str | None
    wrist: str | None
    revision: str | None

    @property
    def repo_id(self) -> str:
        """Id on the Hub."""
        return f"IPEC-COMMUNITY/{self.name}_lerobot"

    @property
    def embodiment(self) -> str:
        """The robot, with the meaning of its state where datasets of that robot differ in it.

        Datasets of one embodiment share the policy's state and action projections, which would be wrong for joint
        angles and poses.
        """
        encodings = {dataset.state for dataset in oxe_datasets().values() if dataset.robot == self.robot}
        return self.robot if len(encodings) == 1 else f"{self.robot}_{self.state or 'unknown'}"


@dataclass(frozen=True)
class OXEMixture:
    """A set of weights, as another project trains with it.

    Args:
        source: The project.
        cameras: The policy's cameras, "primary" and "wrist".
        weights: Dataset name -> weight, which multiplies the dataset's number of frames.
    """

    source: str
    cameras: list[str]
    weights: dict[str, float]


def oxe_datasets() -> dict[str, OXEDataset]:
    """Reads the datasets of the table, by name."""
    return {name: OXEDataset(name=name, **values) for name, values in _table()["datasets"].items()}


def oxe_mixtures() -> dict[str, OXEMixture]:
    """Reads the sets of weights of the table, by name."""
    return {name: OXEMixture(**values) for name, values in _table()["mixtures"].items()}


def make_oxe_mixture(
    name: str,
    *,
    only: Sequence[str] | None = None,
    frame_gap_s: float = DEFAULT_FRAME_GAP_S,
    root: str | None = None,
) -> dict[str, Any]:
    """Makes the content of a mixture file.

    Grippers whose values are known to run the other way are mirrored, so that a large value means open.

    Args:
        name: Set of weights; see `oxe_mixtures`.
        only: Names of the datasets to keep; None keeps all.
        frame_gap_s: Seconds between the two frames of a latent action. 1 s is a whole number of frames in every
            dataset but dobbe (3.75 Hz).
        root: Folder with the upgraded datasets, each in a folder of its name; None looks where LeRobot does.

    Returns:
        The fields of a `MixtureConfig`, as plain values.

    Raises:
        ValueError: A name is unknown, or the frame gap is not positive.
    """
    mixtures = oxe_mixtures()
    if name not in mixtures:
        raise ValueError(f"`name` is {name!r}; it must be one of {', '.join(mixtures)}.")
    if not 0 < frame_gap_s < float("inf"):
        raise ValueError(f"`frame_gap_s` is {frame_gap_s}; it must be a number of seconds above 0.")
    mixture = mixtures[name]
    names = list(mixture.weights) if only is None else list(dict.fromkeys(only))
    unknown = [dataset for dataset in names if dataset not in mixture.weights]
    if unknown or not names:
        raise ValueError(
            f"`only` has {', '.join(unknown) or 'no dataset'}; it must name datasets of {name}, which are "
            f"{', '.join(mixture.weights)}."
        )
    ordered = [dataset for dataset in mixture.weights if dataset in names]
    return {
        "weights": "per_frame",
        "frame_gap_s": frame_gap_s,
        "reference": _REFERENCE if _REFERENCE in ordered else ordered[0],
        "image_size": list(IMAGE_SIZE),
        "cameras": [CAMERA_PREFIX + camera for camera in mixture.cameras],
        "entries": [
            _entry(oxe_datasets()[dataset], mixture.weights[dataset], mixture.cameras, root)
            for dataset in ordered
        ],
    }


def write_oxe_mixture(
    name: str,
    path: str | Path,
    *,
    only: Sequence[str] | None = None,
    frame_gap_s: float = DEFAULT_FRAME_GAP_S,
    root: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes a mixture file, with a header that says how it was made and what to do before training.

    Args:
        name: See `make_oxe_mixture`.
        path: File to write.
        only: See `make_oxe_mixture`.
        frame_gap_s: See `make_oxe_mixture`.
        root: See `make_oxe_mixture`; a relative path starts at the mixture file.
        overwrite: Replace a file with other content.

    Returns:
        The path of the file.

    Raises:
        ValueError: The file is not named like a mixture file or exists with other content, or an argument is refused.
    """
    from lerobot_lara.data.mixture.config import is_mixture, make_mixture

    content = make_oxe_mixture(name, only=only, frame_gap_s=frame_gap_s, root=root)
    if not is_mixture(str(path)):
        raise ValueError(
            f"`path` is {path}; it must end in .yaml, as --dataset.repo_id tells mixture files by that."
        )
    make_mixture(content)
    options = [
        *([f"--only={','.join(only)}"] if only is not None else []),
        *([f"--frame-gap-s={frame_gap_s:g}"] if frame_gap_s != DEFAULT_FRAME_GAP_S else []),
        *([f"--root={root}"] if root is not None else []),
    ]
    command = " ".join(["lara oxe-mixture", name, str(path), *options])
    header = (
        f"# Open X-Embodiment: the mixture {name}, weights of {oxe_mixtures()[name].source}. Written by\n"
        f"#   {command}\n"
        "# The datasets on the Hub have LeRobot's format v2.0. Upgrade each of them before training, for example with\n"
        "#   lara upgrade-dataset IPEC-COMMUNITY/bridge_orig_lerobot oxe/bridge_orig\n"
        "# and add --root=<folder with the upgraded datasets, relative to this file> to the command above.\n"
    )
    # One line per map or list of plain values.
    text = header + yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=110)
    path = user_path(path)
    if path.exists() and not overwrite and path.read_bytes() != text.encode():
        raise ValueError(f"{path} exists with other content. Give another path, or pass --overwrite.")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return path


def _entry(dataset: OXEDataset, weight: float, cameras: Sequence[str], root: str | None) -> dict[str, Any]:
    """The fields of a dataset's `EntryConfig`."""
    available = {"primary": dataset.primary, "wrist": dataset.wrist}
    return {
        "name": dataset.name,
        "repo_id": dataset.repo_id,
        "root": None if root is None else str(Path(root) / dataset.name),
        "revision": dataset.revision,
        "weight": weight,
        "cameras": {
            f"{CAMERA_PREFIX}{available[camera]}": f"{CAMERA_PREFIX}{camera}"
            for camera in cameras
            if available[camera] is not None
        },
        "state": _vector(
            None if dataset.state == "none" else "observation.state", dataset.state_gripper, _STATE_GRIPPER
        ),
        "action": _vector("action", dataset.action_gripper, _ACTION_GRIPPER),
        "embodiment": dataset.embodiment,
    }


def _vector(key: str | None, gripper: str | None, dimension: int) -> dict[str, Any]:
    """The fields of a `VectorMap` that mirrors a gripper where a large value means closed."""
    return {"key": key, "dims": None, "invert": [dimension] if gripper == "closed" else None}


@functools.cache
def _table() -> dict[str, Any]:
    """Content of oxe.yaml."""
    return yaml.safe_load(importlib.resources.files(__package__).joinpath("oxe.yaml").read_text())
