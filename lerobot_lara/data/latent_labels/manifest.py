"""The manifest of latent labels: which latent action model (LAM) labeled which dataset, and how.

It is written last: a folder without it holds labels that are not finished. What is stored about the dataset tells
whether it still is the one that was labeled, as LeRobot's tools renumber the episodes that they keep.

Layout of a folder of labels:

    meta/latent_labels.json               the manifest
    meta/codebook.safetensors             codebooks that were fitted to a continuous LAM (L, V, C), if any
    data/chunk-000/file-000.parquet       index, episode_index, frame_index, valid, latent_action, code_indices, ...

Legend: L latent-action tokens, C latent width, V codes, K frame gap, R 1 + augmentations.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from lerobot_lara.files.atomic import write_json
from lerobot_lara.files.reading import read_json_object, shown
from lerobot_lara.files.rules import Rule, whole_number

MANIFEST = Path("meta/latent_labels.json")
CODEBOOK = Path("meta/codebook.safetensors")
ERRORS = Path("errors.json")
FORMAT = 1
# Arithmetic of a LAM that makes labels; TF32 is a GPU's float32 with a short mantissa in matrix products.
PRECISIONS = ("float32", "tf32", "bfloat16")

LATENT_ACTION, CODE_INDICES, NO_MOTION, SHIFT = (
    "latent_action",
    "code_indices",
    "latent_no_motion",
    "shift",
)
_TEXT = Rule("text", lambda value: isinstance(value, str) and bool(value))
_TEXT_OR_NULL = Rule("text or null", lambda value: value is None or isinstance(value, str))
_OBJECT = Rule("an object", lambda value: isinstance(value, dict))
_ERRORS = Rule(
    "a list of episodes with their errors",
    lambda value: (
        isinstance(value, list)
        and all(isinstance(each, dict) and type(each.get("episode")) is int for each in value)
    ),
)
_LENGTHS = Rule(
    "a list of whole numbers above 0",
    lambda value: isinstance(value, list) and all(type(each) is int and each > 0 for each in value),
)
_SIZE = Rule(
    "[height, width] in pixels",
    lambda value: isinstance(value, list) and len(value) == 2 and all(type(side) is int for side in value),
)
_RULES = {
    "format": Rule(f"{FORMAT}", lambda value: value == FORMAT),
    "lam": _OBJECT,
    "dataset": _OBJECT,
    "camera": _TEXT,
    "frame_size": _SIZE,
    "frame_gap": whole_number(1),
    "num_latent_tokens": whole_number(1),
    "latent_dim": whole_number(1),
    "codebook_size": Rule(
        "a number of codes or null", lambda value: value is None or (type(value) is int and value > 0)
    ),
    "codebook_per_token": Rule("true or false", lambda value: isinstance(value, bool)),
    "codebook_sha256": _TEXT_OR_NULL,
    "dtype": Rule("float16 or float32", lambda value: value in ("float16", "float32")),
    "precision": Rule(f"one of {', '.join(PRECISIONS)}", lambda value: value in PRECISIONS),
    "augmentations": whole_number(0),
    "random_shift": whole_number(0),
    "seed": whole_number(0),
    "no_motion": Rule("true or false", lambda value: isinstance(value, bool)),
    "valid": whole_number(0),
    "invalid": whole_number(0),
    "errors": _ERRORS,
}
_LAM_RULES = {"sha256": _TEXT, "settings_sha256": _TEXT, "name": _TEXT}
_DATASET_RULES = {
    "fps": Rule("a number above 0", lambda value: type(value) in (int, float) and value > 0),
    "episode_lengths": _LENGTHS,
    "files": _OBJECT,
}
_REMEDY = "Label the dataset again, or download the labels again."


@dataclass(frozen=True)
class LabelManifest:
    """What latent labels are of.

    Args:
        lam: `name` (Hub id, or name of the folder), `revision`, `sha256` of the weights, `settings_sha256`.
        dataset: `repo_id`, `revision`, `fps`, `total_frames`, `episode_lengths`, `episodes` that are labeled (null: all
            of them) and `files`, what tells the files of the camera's frames from others.
        camera: Key of the camera in the dataset.
        frame_size: Height and width, in pixels, of the frames that the LAM was given.
        frame_gap: K, in frames.
        num_latent_tokens: L.
        latent_dim: C.
        codebook_size: V; None without codes.
        codebook_per_token: Whether each of the L tokens has V codes of its own, as in a codebook that was fitted
            afterwards.
        codebook_sha256: SHA-256 of the codebooks that were fitted afterwards; None without.
        dtype: Of the stored latent actions.
        precision: One of `PRECISIONS`, in which the LAM computed them.
        augmentations: Randomly shifted versions of each pair, beside the one that is not shifted.
        random_shift: Largest shift of these, in pixels.
        seed: Of the shifts and of the codebooks.
        no_motion: Whether the latent actions of the pairs (o_t, o_t) are stored too.
        valid: Number of rows whose pair lies within its episode.
        invalid: Number of other rows.
        errors: Episodes that could not be read, as {"episode", "error"}; their rows are invalid.
        plan: Fingerprint of the command that made them, by which a repeated one knows that there is nothing to do.
        format: Version of this layout.
    """

    lam: dict[str, Any]
    dataset: dict[str, Any]
    camera: str
    frame_size: list[int]
    frame_gap: int
    num_latent_tokens: int
    latent_dim: int
    codebook_size: int | None
    codebook_per_token: bool
    codebook_sha256: str | None
    dtype: str
    precision: str
    augmentations: int
    random_shift: int
    seed: int
    no_motion: bool
    valid: int = 0
    invalid: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    plan: str = ""
    format: int = FORMAT

    @property
    def latent_width(self) -> int:
        """L * C."""
        return self.num_latent_tokens * self.latent_dim

    @property
    def frame_gap_s(self) -> float:
        """The frame gap in seconds."""
        return self.frame_gap / self.dataset["fps"]

    @property
    def lam_sha256(self) -> str:
        """SHA-256 of the LAM's weights."""
        return self.lam["sha256"]

    @property
    def tokenizer(self) -> str | None:
        """Fingerprint of what makes the codes: the LAM, and codebooks that were fitted afterwards; None without."""
        if self.codebook_size is None:
            return None
        parts = [self.lam["sha256"], self.lam["settings_sha256"], self.codebook_sha256 or ""]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def identity(self) -> str:
        """Fingerprint of everything that decides the labels' values; other labels have another one."""
        content = asdict(self)
        for name in ("valid", "invalid", "errors", "plan"):
            del content[name]
        # The names by which LAM and dataset were found do not change a label.
        content["lam"] = {name: self.lam[name] for name in ("sha256", "settings_sha256")}
        content["dataset"] = {
            name: value for name, value in self.dataset.items() if name not in ("repo_id", "revision")
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Writes the manifest of a folder of labels."""
        write_json(folder / MANIFEST, {**asdict(self), "frame_gap_s": self.frame_gap_s})

    @classmethod
    def read(cls, folder: Path) -> "LabelManifest":
        """Reads the manifest of a folder of labels.

        Raises:
            ValueError: The folder holds no finished labels, or the manifest is damaged.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise ValueError(
                f"{folder} holds no finished latent labels: it has no {MANIFEST}. Run `lara label <lam> <dataset> "
                f"--out={folder}`, again if it was stopped."
            )
        content = read_json_object(path, remedy=_REMEDY)
        missing = [name for name in _RULES if name not in content]
        if missing:
            raise ValueError(f"{path} lacks `{missing[0]}`. {_REMEDY}")
        for name, rule in _RULES.items():
            _check(path, name, content[name], rule)
        for name, rules in (("lam", _LAM_RULES), ("dataset", _DATASET_RULES)):
            lacking = [key for key in rules if key not in content[name]]
            if lacking:
                raise ValueError(f"{path}: `{name}` lacks `{lacking[0]}`. {_REMEDY}")
            for key, rule in rules.items():
                _check(path, f"{name}.{key}", content[name][key], rule)
        known_episodes = range(len(content["dataset"]["episode_lengths"]))
        for episode in content["dataset"].get("episodes") or []:
            if episode not in known_episodes:
                raise ValueError(
                    f"{path}: `dataset.episodes` has {shown(episode)}; they must be from 0 to "
                    f"{len(known_episodes) - 1}. {_REMEDY}"
                )
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in content.items() if name in known})


def _check(path: Path, field: str, value: Any, rule: Rule) -> None:
    """Refuses a value that breaks its rule."""
    if not rule.accepts(value):
        raise ValueError(f"{path}: `{field}` is {shown(value)}; it must be {rule.expected}. {_REMEDY}")
