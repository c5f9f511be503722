"""What is to be labeled and how: written before the first label, so that all workers and later runs do the same."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.utils.constants import ACTION
from lerobot.utils.import_utils import get_safe_default_video_backend

import lerobot_lara  # noqa: F401  registers the policy types
from lerobot_lara.alignment.checkpoint_lam import GENERIC_PARTS, CheckpointLAM, find_lam
from lerobot_lara.batch.frame_gap import check_frame_gap
from lerobot_lara.data.latent_labels.fingerprint import episode_lengths, frame_files
from lerobot_lara.data.latent_labels.labels import codebook_digest
from lerobot_lara.data.latent_labels.manifest import PRECISIONS, LabelManifest
from lerobot_lara.data.mixture.config import EntryConfig, MixtureConfig
from lerobot_lara.data.mixture.reader import ColumnReader
from lerobot_lara.data.mixture.single import open_single
from lerobot_lara.data.mixture.sources import Source, open_sources
from lerobot_lara.files.atomic import write_json
from lerobot_lara.files.reading import read_json_object
from lerobot_lara.files.user_path import user_path
from lerobot_lara.labeling.codebook import borrow_codebook
from lerobot_lara.lam.latent_action_model import LatentActionModel
from lerobot_lara.training.portable import is_local

PLAN = Path("plan.json")
CHUNK_FILES = 1000
# LeRobot's own default.
TOLERANCE_S = 1e-4
_REMEDY = "Label the dataset again."


@dataclass(frozen=True)
class LabelOptions:
    """How labels are made.

    Args:
        dtype: "float16" or "float32", of the stored latent actions.
        augmentations: Randomly shifted versions of each pair, beside the one that is not shifted.
        random_shift: Largest shift of these in pixels, as the policy's `random_shift`.
        no_motion: Also store the latent actions of no motion, for `alignment_relative`.
        codebook_size: Codes to fit for each token of a continuous LAM; None for no codes.
        codebook: Folder of labels whose codebooks to use instead of fitting them.
        seed: Of the shifts and of the codebooks.
        shard_frames: About how many frames a file of labels holds, and a killed run may lose.
        window: Frames that are decoded and encoded at a time.
        device: "cpu" or "cuda"; None takes CUDA if it is available.
        precision: "float32", "tf32" (on a GPU) or "bfloat16", in which the LAM computes.
    """

    dtype: str = "float16"
    augmentations: int = 0
    random_shift: int = 0
    no_motion: bool = False
    codebook_size: int | None = None
    codebook: str | None = None
    seed: int = 0
    shard_frames: int = 5000
    window: int = 64
    device: str | None = None
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name, holds, expected in (
            ("dtype", self.dtype in ("float16", "float32"), "float16 or float32"),
            ("precision", self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
            ("augmentations", self.augmentations >= 0, "0 or more"),
            ("random_shift", self.random_shift >= 0, "0 or more pixels"),
            ("seed", self.seed >= 0, "0 or more"),
            ("shard_frames", self.shard_frames >= 1, "at least 1"),
            ("window", self.window >= 1, "at least 1"),
            ("codebook_size", self.codebook_size is None or 2 <= self.codebook_size <= 32768, "2 to 32768"),
        ):
            if not holds:
                raise ValueError(f"`{name}` is {getattr(self, name)!r}; it must be {expected}.")
        if (self.augmentations > 0) != (self.random_shift > 0):
            raise ValueError(
                f"`augmentations` is {self.augmentations} and `random_shift` {self.random_shift}; both must be 0 or "
                "both above. Pass --augmentations=<versions of each frame> --random-shift=<the policy's random_shift>."
            )
        if self.codebook_size is not None and self.codebook is not None:
            raise ValueError(
                "`codebook` and `codebook_size` are both given; codebooks are either taken from other labels or "
                "fitted. Drop one of them."
            )


@dataclass(frozen=True)
class LabelPlan:
    """What is to be labeled.

    Args:
        lam: Where the latent action model is.
        entry: The dataset, as fields of `EntryConfig`.
        manifest: What the labels will be of; counts and errors are still empty.
        options: How they are made.
        episodes: Numbers of the episodes to label.
        shards: First and last position in `episodes` of each file, the last excluded.
    """

    lam: CheckpointLAM
    entry: dict[str, Any]
    manifest: LabelManifest
    options: LabelOptions
    episodes: list[int]
    shards: list[tuple[int, int]]

    @property
    def digest(self) -> str:
        """Fingerprint of what decides the content of every file, but for the frames: a video may be repaired."""
        manifest = replace(self.manifest, dataset=self.manifest.dataset | {"files": {}})
        content = {
            "identity": manifest.identity(),
            "codebook_size": self.options.codebook_size,
            "episodes": self.episodes,
            "shards": self.shards,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def shifts(self, episode: int) -> np.ndarray:
        """(R, 2) shifts of an episode's frames, in pixels (down, right); the first version is not shifted."""
        largest = self.options.random_shift
        random = np.random.default_rng([self.options.seed, episode])
        drawn = random.integers(-largest, largest + 1, (self.options.augmentations, 2))
        return np.concatenate([np.zeros((1, 2), np.int64), drawn.astype(np.int64)])

    def file(self, shard: int) -> Path:
        """File of a shard, relative to the folder of labels."""
        chunk, number = divmod(shard, CHUNK_FILES)
        return Path(f"data/chunk-{chunk:03d}/file-{number:03d}.parquet")

    def write(self, folder: Path) -> None:
        """Writes the plan into the folder of labels."""
        write_json(folder / PLAN, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "LabelPlan":
        """Reads the plan of labels that are not finished.

        Raises:
            ValueError: It is missing, damaged or of another version.
        """
        path = folder / PLAN
        content = read_json_object(path, remedy=_REMEDY)
        try:
            return cls(
                lam=CheckpointLAM(**content["lam"]),
                entry=content["entry"],
                manifest=LabelManifest(**content["manifest"]),
                options=LabelOptions(**content["options"]),
                episodes=content["episodes"],
                shards=[(first, last) for first, last in content["shards"]],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is damaged or of another version of lerobot_lara ({type(error).__name__}: {error}). {_REMEDY}"
            ) from error

    def open_source(self) -> Source:
        """Opens the metadata of the dataset."""
        return open_sources(MixtureConfig([EntryConfig(**self.entry)]), use_actions=False)[0]

    def open_reader(self) -> ColumnReader:
        """Opens the dataset's frames."""
        return self.open_source().open_reader(
            self.episodes, video_backend=get_safe_default_video_backend(), tolerance_s=TOLERANCE_S
        )


def make_plan(
    lam_path: str,
    source: Source,
    options: LabelOptions,
    *,
    camera: str | None = None,
    frame_gap: int | None = None,
    frame_size: tuple[int, int] | None = None,
) -> LabelPlan:
    """Decides what is to be labeled.

    Args:
        lam_path: Folder or Hub id of a checkpoint with a latent action model (LAM).
        source: The opened dataset.
        options: How labels are made.
        camera: Camera of the dataset; None takes the one that the LAM was trained on, or the dataset's only one.
        frame_gap: K in this dataset's frames, where its rate is not that of the LAM's data; None takes the LAM's.
        frame_size: Height and width, in pixels, to which frames are cropped and resized for a policy's mixture; None
            leaves them as they are.

    Raises:
        ValueError: There is no such LAM or camera, no pair of frames, or the codebooks do not fit.
    """
    found = open_lam(lam_path)
    lam = found.load()
    _check_codebook(lam, options, lam_path)
    camera = choose_camera(source, camera, found.camera)
    gap = frame_gap or lam.frame_gap
    episodes = source.episodes()
    lengths = episode_lengths(source.meta)
    check_frame_gap([lengths[episode] for episode in episodes], gap)
    # Which also downloads what is not on this machine.
    reader = source.open_reader(
        episodes, video_backend=get_safe_default_video_backend(), tolerance_s=TOLERANCE_S
    )
    if reader.episodes != episodes or reader.lengths.tolist() != [lengths[episode] for episode in episodes]:
        raise ValueError(
            f"The tables of {source.name} hold other episodes, or episodes of another length, than its metadata say. "
            "Download the dataset again."
        )
    size = frame_size or source.camera_shape(_policy_camera(source, camera))
    manifest = LabelManifest(
        lam={
            "name": _name(found.path) if is_local(lam_path) else lam_path,
            "revision": found.revision,
            "sha256": found.sha256,
            "settings_sha256": lam.settings_sha256,
        },
        dataset={
            "repo_id": source.config.repo_id,
            "revision": source.config.revision,
            "fps": float(source.fps),
            "total_frames": int(source.meta.total_frames),
            "episode_lengths": lengths,
            "episodes": None if len(episodes) == len(lengths) else episodes,
            "files": frame_files(source.meta, camera, episodes),
        },
        camera=camera,
        frame_size=list(size),
        frame_gap=gap,
        num_latent_tokens=lam.num_latent_tokens,
        latent_dim=lam.latent_dim,
        codebook_size=lam.quantizer.codebook_size,
        codebook_per_token=False,
        codebook_sha256=None,
        dtype=options.dtype,
        precision=options.precision,
        augmentations=options.augmentations,
        random_shift=options.random_shift,
        seed=options.seed,
        no_motion=options.no_motion,
    )
    if options.codebook is not None:
        codebook = borrow_codebook(options.codebook, manifest)
        manifest = replace(
            manifest,
            codebook_size=codebook.shape[1],
            codebook_per_token=True,
            codebook_sha256=codebook_digest(codebook),
        )
        options = replace(options, codebook=str(user_path(options.codebook).resolve()))
    shards = cut_into_shards([lengths[episode] for episode in episodes], options.shard_frames)
    return LabelPlan(found, _entry_fields(source), manifest, options, episodes, shards)


def open_for_actions(demos: str, episodes: list[int] | None) -> Source:
    """Opens demonstrations, whose actions are read too.

    Raises:
        ValueError: There is no such dataset, or it has no actions.
    """
    source = open_single(demos, camera=None)
    if ACTION not in source.meta.features:
        raise ValueError(
            f"{demos} has no actions, from which a decoder is learned. Name a dataset of demonstrations."
        )
    return replace(source, config=replace(source.config, episodes=episodes))


def open_lam(lam_path: str) -> CheckpointLAM:
    """Finds a latent action model (LAM) so that it is found again from any working directory.

    Args:
        lam_path: Folder or Hub id of a checkpoint.

    Raises:
        ValueError: There is none.
    """
    return find_lam(str(user_path(lam_path).resolve()) if is_local(lam_path) else lam_path)


def choose_camera(source: Source, camera: str | None, trained_on: str | None) -> str:
    """The camera of the dataset whose frames are labeled.

    Raises:
        ValueError: The dataset lacks the one that is named, or has several of which none is named.
    """
    cameras = sorted(source.cameras.values())
    if camera is None:
        camera = trained_on if trained_on in cameras or len(cameras) > 1 else cameras[0]
    if camera not in cameras:
        raise ValueError(
            f"`camera` is {camera!r}; it must be one of {cameras}, the cameras of {source.name}. Pass --camera."
        )
    return camera


def cut_into_shards(lengths: list[int], shard_frames: int) -> list[tuple[int, int]]:
    """Groups successive episodes into shards of about as many frames; an episode is never cut.

    Args:
        lengths: Frames of each episode.
        shard_frames: Frames at which a shard ends.

    Returns:
        First and last position of each shard's episodes, the last excluded.
    """
    shards, first, frames = [], 0, 0
    for position, length in enumerate(lengths):
        frames += length
        if frames >= shard_frames or position == len(lengths) - 1:
            shards.append((first, position + 1))
            first, frames = position + 1, 0
    return shards


@lru_cache(maxsize=1)
def load_lam(lam: CheckpointLAM, frame_gap: int, device: str | None) -> LatentActionModel:
    """The LAM of a plan on its device, loaded once per process.

    Raises:
        ValueError: It is damaged, or there is no such device.
    """
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=chosen)
    except (AssertionError, RuntimeError) as error:  # the first in a PyTorch without CUDA
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"`device` is {chosen!r}, which cannot be used ({reason}). Pass --device=cpu."
        ) from error
    model = lam.load().to(chosen)
    model.frame_gap = frame_gap
    return model


def _check_codebook(lam: LatentActionModel, options: LabelOptions, lam_path: str) -> None:
    wanted = options.codebook_size is not None or options.codebook is not None
    if wanted and lam.quantizer.codebook_size is not None:
        raise ValueError(
            f"`codebook_size` or `codebook` is given, but the latent action model {lam_path} has a codebook of its own "
            f"({lam.quantizer.codebook_size} codes). Leave them out."
        )
    # Said now, not once everything is labeled.
    if options.codebook_size is not None and find_spec("sklearn") is None:
        raise ValueError(
            "`codebook_size` needs the package scikit-learn. Install this package with its extra `label`."
        )


def _name(folder: str) -> str:
    """The last part of a path that tells one run from another."""
    parts = [part for part in Path(folder).parts if part not in GENERIC_PARTS and not part.isdigit()]
    return parts[-1] if parts else folder


def _policy_camera(source: Source, camera: str) -> str:
    """Name under which the policy knows a camera of the dataset."""
    return next(name for name, own in source.cameras.items() if own == camera)


def _entry_fields(source: Source) -> dict[str, Any]:
    """The entry as JSON can hold it, found from any working directory."""
    entry = source.config
    if entry.root is not None:
        entry = replace(entry, root=str(Path(entry.root).resolve()))
    # Workers open it on its own, where a weight of 0 would leave no dataset.
    return asdict(replace(entry, state=None, action=None, action_free=True, weight=1.0))
