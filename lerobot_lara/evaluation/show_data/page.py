"""Writes one HTML page that shows what a policy would train on: a dataset, or a mixture of several."""

import logging
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.configs import PreTrainedConfig
from lerobot.configs.default import DatasetConfig
from lerobot.transforms import ImageTransforms, ImageTransformsConfig
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import Tensor

import lerobot_lara  # noqa: F401  registers the policy types
from lerobot_lara.data.mixture.build import build_mixture
from lerobot_lara.data.mixture.config import MixtureConfig, VectorMap, is_mixture, load_mixture, require_roots
from lerobot_lara.data.mixture.dataset import MixtureDataset
from lerobot_lara.data.mixture.samples import EntrySamples
from lerobot_lara.data.mixture.single import single_dataset
from lerobot_lara.data.mixture.sources import Source, open_sources
from lerobot_lara.evaluation.page import render_template
from lerobot_lara.evaluation.show_data.neighbors import describe_neighbors
from lerobot_lara.evaluation.show_data.pairs import (
    Pair,
    absolute_change,
    augment_pairs,
    change_uri,
    choose_draws,
    frame_uris,
    read_pairs,
)
from lerobot_lara.evaluation.show_data.problems import find_problems
from lerobot_lara.evaluation.show_data.summary import describe_cameras, describe_entry
from lerobot_lara.files.atomic import write_text
from lerobot_lara.files.user_path import user_path

logger = logging.getLogger(__name__)

# Marks a page as written by this command, so that it may be replaced.
GENERATOR = '<meta name="generator" content="lara show-data">'
OUTPUT_DIR = Path("outputs/show_data")
# Smallest number of pairs of each dataset that are measured.
MEASURED_PAIRS = 48
# Lower end for the maximum of the color scale of difference images, so that noise stays dark.
MIN_BRIGHTEST = 0.15


def show_data(
    data: str,
    *,
    out: str | Path | None = None,
    policy: str | None = None,
    frame_gap: int | None = None,
    frame_gap_s: float | None = None,
    random_shift: int = 0,
    image_transforms: bool = False,
    pairs: int = 6,
    labels: str | None = None,
    seed: int = 0,
) -> Path:
    """Writes the page.

    Args:
        data: A mixture file, a folder with a LeRobotDataset, or a Hub id.
        out: Path of the page; None selects `<name>.html` in outputs/show_data. An earlier page of this command is
            replaced.
        policy: Policy type that learns from frame pairs; None selects "lara", or "lara_lam" if no dataset has actions.
        frame_gap: Frames between o_t and o_{t+K} in every dataset, which overrides the mixture; None keeps its gap.
        frame_gap_s: The same in seconds.
        random_shift: Largest shift of the policy's augmentation, in pixels.
        image_transforms: Whether to apply LeRobot's default augmentation.
        pairs: Number of pairs to show from each dataset, at least 1.
        labels: Folder of latent labels of a single dataset, of which similar pairs are shown; a mixture file names
            those of its entries.
        seed: Seed for the choice of pairs and for the augmentation.

    Returns:
        Path of the page.

    Raises:
        ValueError: If the data is missing or inconsistent, a flag is out of range, or `out` is a file of another kind.
    """
    if pairs < 1:
        raise ValueError(f"`pairs` is {pairs}; it must be at least 1. Pass --pairs=1 or more.")
    page = _page_path(data, out)
    content = _describe(
        data,
        _with_labels(_with_gap(open_data(data), frame_gap, frame_gap_s), data, labels),
        policy=policy,
        frame_gap=frame_gap,
        random_shift=random_shift,
        image_transforms=image_transforms,
        pairs=pairs,
        seed=seed,
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    write_text(page, content)
    return page


def _describe(
    data: str,
    mixture: MixtureConfig,
    *,
    policy: str | None,
    frame_gap: int | None,
    random_shift: int,
    image_transforms: bool,
    pairs: int,
    seed: int,
) -> str:
    """The page's content; the arguments are those of `show_data`."""
    config = configure_policy(mixture, policy, frame_gap=frame_gap, random_shift=random_shift)
    dataset, _ = build_mixture(mixture, config, path=data, video_backend=DatasetConfig(data).video_backend)
    transforms = ImageTransforms(ImageTransformsConfig(enable=True)) if image_transforms else None
    entries = []
    for number, entry in enumerate(dataset.entries):
        logger.info("Reading %s ...", entry.source.name)
        generator = np.random.default_rng([seed, number])
        draws = choose_draws(dataset, number, max(pairs, MEASURED_PAIRS), generator)
        read = read_pairs(dataset, draws, pairs, generator)
        unmapped = set(entry.source.meta.camera_keys) - set(entry.source.cameras.values())
        shown = [pair for pair in read if pair.shown]
        entries.append(
            describe_entry(dataset, number, config)
            | {
                "cameras": describe_cameras(entry, read),
                "unmapped": sorted(unmapped),
                "pairs_shown": _draw_pairs(dataset, shown, transforms, random_shift, seed),
                "neighbors": _neighbors(entry, dataset, seed),
            }
        )
    return render_template(
        "show_data.html.j2",
        generator=GENERATOR,
        data=data,
        title=Path(data).name if _is_local(data) else data,
        is_mixture=is_mixture(data),
        policy=config,
        flags=training_flags(config, data),
        reference=dataset.meta.mixture["reference"],
        weights=mixture.weights,
        left_out=[entry.name for entry in mixture.entries if entry.weight == 0],
        draws=len(dataset),
        image_sizes=_image_sizes(dataset),
        augmentations=_augmentations(image_transforms, random_shift),
        problems=find_problems(entries),
        entries=entries,
    )


def _with_labels(mixture: MixtureConfig, data: str, labels: str | None) -> MixtureConfig:
    """The mixture of a single dataset with its labels."""
    if labels is None:
        return mixture
    if is_mixture(data):
        raise ValueError(
            f"`labels` is {labels!r}; it must not be given for a mixture file. Set `labels` of its entries instead."
        )
    return replace(mixture, entries=[replace(entry, labels=labels) for entry in mixture.entries])


def _neighbors(entry: EntrySamples, dataset: MixtureDataset, seed: int) -> list[list[dict[str, Any]]]:
    """Pairs with similar latent actions, where an entry has labels of the policy's first camera."""
    camera = dataset.meta.camera_keys[0]
    if entry.source.config.labels is None or camera not in entry.source.cameras:
        return []
    return describe_neighbors(entry, camera, seed)


def open_data(data: str) -> MixtureConfig:
    """Reads a mixture file, or makes a mixture of a single dataset.

    Args:
        data: A mixture file, a folder with a LeRobotDataset, or a Hub id.

    Returns:
        The mixture.

    Raises:
        ValueError: If the mixture file is invalid, or a folder is missing or not a LeRobotDataset.
    """
    if is_mixture(data):
        mixture = load_mixture(data)
        require_roots(mixture, data)
        return mixture
    folder = user_path(data)
    if not folder.is_dir():
        if data.startswith((".", "/", "~")) or data.count("/") > 1:
            raise ValueError(
                f"{folder} does not exist: it should be a folder. Pass the folder of a LeRobotDataset, a Hub id, or a "
                "mixture file (.yaml)."
            )
        return single_dataset(data)
    # LeRobot would fill a folder without metadata from the Hub.
    if not (folder / "meta" / "info.json").is_file():
        raise ValueError(
            f"{folder} is not a LeRobotDataset: it has no meta/info.json. Pass the folder of a LeRobotDataset, a Hub "
            "id, or a mixture file (.yaml)."
        )
    name = folder.resolve().name
    return single_dataset(f"local/{name}", name=name, root=str(folder))


def configure_policy(
    mixture: MixtureConfig, policy: str | None, *, frame_gap: int | None = None, random_shift: int = 0
) -> PreTrainedConfig:
    """Configures a policy so that its frame gap, dimensions and embodiments fit a mixture.

    Args:
        mixture: The mixture.
        policy: Policy type; None chooses by whether there are actions.
        frame_gap: Frames, where neither the mixture nor its reference dataset gives seconds; None is the type's
            default.
        random_shift: In pixels.

    Returns:
        The policy's configuration.

    Raises:
        ValueError: If the type is unknown or does not learn from frame pairs, or a value is out of range.
    """
    sources = open_sources(mixture, use_actions=False)
    has_actions = any(_column(source, "action") is not None for source in sources)
    policy = policy or ("lara" if has_actions else "lara_lam")
    known = {
        name: choice
        for name, choice in PreTrainedConfig.get_known_choices().items()
        if "frame_gap" in {field.name for field in fields(choice)}
    }
    if policy not in known:
        raise ValueError(
            f"`policy` is {policy!r}; it must be a type that learns from frame pairs. Pass one of {sorted(known)} as "
            "--policy."
        )
    names = {field.name for field in fields(known[policy])}
    draft = known[policy](device="cpu")
    reference = next(source for source in sources if source.config is mixture.reference_entry)
    derived = {
        "frame_gap": reference.frame_gap(mixture, draft.frame_gap if frame_gap is None else frame_gap),
        "random_shift": random_shift,
        "embodiments": mixture.embodiments,
    }
    for name in ("state", "action"):
        dims = [source.dim(_column(source, name)) for source in (reference, *sources)]
        if max(dims) > dims[0]:
            derived[f"max_{name}_dim"] = max(dims)
    return known[policy](device="cpu", **{name: value for name, value in derived.items() if name in names})


def training_flags(policy: PreTrainedConfig, data: str) -> list[str]:
    """Returns the flags of `lerobot-train` for what the page shows.

    Args:
        policy: The configured policy; only what differs from the defaults of its type becomes a flag.
        data: A mixture file, a folder with a LeRobotDataset, or a Hub id.
    """
    folder = user_path(data)
    local = [f"--dataset.repo_id=local/{folder.resolve().name}", f"--dataset.root={data}"]
    default = type(policy)(device="cpu")
    changed = [
        f"--policy.{name}={getattr(policy, name)}"
        for name in (
            "frame_gap",
            "random_shift",
            "max_state_dim",
            "max_action_dim",
        )
        if getattr(policy, name, None) != getattr(default, name, None)
    ]
    dataset = local if _is_local(data) and not is_mixture(data) else [f"--dataset.repo_id={data}"]
    return [*dataset, f"--policy.type={policy.type}", *changed]


def _column(source: Source, name: str) -> VectorMap | None:
    """Column of a source's "state" or "action"; None if it has none."""
    config = source.config
    default = VectorMap(ACTION if name == "action" else OBS_STATE)
    column: VectorMap = getattr(config, name) or default
    return None if config.action_free or column.key not in source.meta.features else column


def _with_gap(mixture: MixtureConfig, frame_gap: int | None, frame_gap_s: float | None) -> MixtureConfig:
    """The mixture with another frame gap for all of its datasets."""
    if frame_gap is not None and frame_gap_s is not None:
        raise ValueError(
            f"`frame_gap` is {frame_gap} and `frame_gap_s` is {frame_gap_s}; only one of them may be given. Pass "
            "--frame-gap or --frame-gap-s."
        )
    if frame_gap is None and frame_gap_s is None:
        return mixture
    entries = [replace(entry, frame_gap_s=None) for entry in mixture.entries]
    return replace(mixture, entries=entries, frame_gap_s=frame_gap_s)


def _is_local(data: str) -> bool:
    return is_mixture(data) or user_path(data).is_dir()


def _page_path(data: str, out: str | Path | None) -> Path:
    name = user_path(data).resolve().name if _is_local(data) else data.replace("/", "_")
    stem = Path(name).stem if is_mixture(data) else name
    page = OUTPUT_DIR / f"{stem}.html" if out is None else user_path(out)
    if page.is_dir():
        raise ValueError(
            f"`out` is the folder {page}; it must be a file. Pass the page itself, e.g. "
            f"--out={page / (stem + '.html')}."
        )
    if page.exists() and GENERATOR.encode() not in page.read_bytes()[:2000]:
        raise ValueError(
            f"`out` is {page}, which is not a page of `lara show-data`; it must be new or such a page. Pass "
            "another --out."
        )
    return page


def _image_sizes(dataset: MixtureDataset) -> str:
    """Height and width of the images, of each camera if they differ."""
    sizes = {
        camera: f"{height}×{width}"
        for camera, (height, width) in dataset.entries[0].layout.image_sizes.items()
    }
    if len(set(sizes.values())) == 1:
        return next(iter(sizes.values()))
    return ", ".join(f"{size} ({camera})" for camera, size in sizes.items())


def _augmentations(image_transforms: bool, random_shift: int) -> list[str]:
    transforms = ["LeRobot's default image transforms"] if image_transforms else []
    return transforms + ([f"random shifts of up to {random_shift} pixels"] if random_shift else [])


def _draw_pairs(
    dataset: MixtureDataset,
    pairs: list[Pair],
    image_transforms: Callable[[Tensor], Tensor] | None,
    random_shift: int,
    seed: int,
) -> dict[str, Any]:
    """Draws the pairs, with a color scale for the differences of each camera."""
    is_augmented = image_transforms is not None or random_shift > 0
    augmented: list[dict[str, Tensor]] | list[None] = [None] * len(pairs)
    if is_augmented:
        augmented = augment_pairs(
            dataset, pairs, image_transforms=image_transforms, shift=random_shift, seed=seed
        )
    changes = [{camera: absolute_change(frames) for camera, frames in pair.frames.items()} for pair in pairs]
    brightest = {
        camera: max(MIN_BRIGHTEST, float(np.quantile([change[camera] for change in changes], 0.995)))
        for camera in pairs[0].frames
    }
    drawn = [
        {
            "instruction": pair.instruction,
            "episode": pair.episode,
            "start": pair.start,
            "cameras": {
                camera: {
                    "images": [
                        *frame_uris(pair.frames[camera]),
                        change_uri(change[camera], brightest[camera]),
                    ],
                    "augmented": []
                    if extra is None
                    else [
                        *frame_uris(extra[camera]),
                        change_uri(absolute_change(extra[camera]), brightest[camera]),
                    ],
                    "change": pair.visible_change(camera),
                }
                for camera in pair.frames
            },
        }
        for pair, change, extra in zip(pairs, changes, augmented, strict=True)
    ]
    return {"pairs": drawn, "brightest": brightest}
