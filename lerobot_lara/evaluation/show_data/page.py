"""One HTML page that shows what a policy would train on: a dataset, or a mixture of several."""

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
from lerobot_lara.data.mixture.config import EntryConfig, MixtureConfig, VectorMap, load_mixture
from lerobot_lara.data.mixture.dataset import MixtureDataset
from lerobot_lara.data.mixture.lerobot_hook import is_mixture
from lerobot_lara.data.mixture.sources import Source, open_sources
from lerobot_lara.evaluation.page import render_template
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

logger = logging.getLogger(__name__)

# Says that a page is one of these, and may be replaced.
GENERATOR = '<meta name="generator" content="lara show-data">'
OUTPUT_DIR = Path("outputs/show_data")
# Pairs of each dataset that are measured, at least.
MEASURED_PAIRS = 48
# The color scale of difference images ends no lower, so that noise stays dark.
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
    seed: int = 0,
) -> Path:
    """Writes the page.

    Args:
        data: A mixture file, a folder with a LeRobotDataset, or a Hub id.
        out: The page; None is `<name>.html` in outputs/show_data. A page of this function is replaced.
        policy: Policy type with frame pairs; None is "lara", or "lara_lam" where no dataset has actions.
        frame_gap: Frames between o_t and o_{t+K} in every dataset, whatever the mixture says.
        frame_gap_s: The same in seconds.
        random_shift: The policy's augmentation, in pixels.
        image_transforms: Whether to apply LeRobot's default augmentation.
        pairs: Pairs shown of each dataset, at least 1.
        seed: Of the choice of pairs and of the augmentation.

    Returns:
        Path of the page.

    Raises:
        ValueError: The data is missing or does not fit together, a flag is out of range, or `out` is a file of
            another kind.
    """
    if pairs < 1:
        raise ValueError(f"--pairs is {pairs}; give at least 1.")
    page = _page_path(data, out)
    mixture = _with_gap(open_data(data), frame_gap, frame_gap_s)
    config = configure_policy(mixture, policy, frame_gap=frame_gap, random_shift=random_shift)
    dataset, _ = build_mixture(mixture, config, path=data, video_backend=DatasetConfig(data).video_backend)
    transforms = ImageTransforms(ImageTransformsConfig(enable=True)) if image_transforms else None
    entries = []
    for number, entry in enumerate(dataset.entries):
        logger.info("Reading %s ...", entry.source.name)
        generator = np.random.default_rng([seed, number])
        draws = choose_draws(dataset, number, max(pairs, MEASURED_PAIRS), generator)
        read = read_pairs(dataset, draws, pairs, generator)
        described = describe_entry(dataset, number, config)
        described["cameras"] = describe_cameras(entry, read)
        described["unmapped"] = sorted(
            set(entry.source.meta.camera_keys) - set(entry.source.cameras.values())
        )
        shown = [pair for pair in read if pair.shown]
        described["pairs_shown"] = _draw_pairs(dataset, shown, transforms, random_shift, seed)
        entries.append(described)
    content = render_template(
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
        image_size=dataset.entries[0].layout.image_size,
        augmentations=_augmentations(image_transforms, random_shift),
        problems=find_problems(entries),
        entries=entries,
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(content, encoding="utf-8")
    return page


def open_data(data: str) -> MixtureConfig:
    """A mixture file, or a mixture of one dataset: a folder or a Hub id.

    Raises:
        ValueError: The mixture file is bad, or a folder is missing or no LeRobotDataset.
    """
    if is_mixture(data):
        return load_mixture(data)
    folder = Path(data).expanduser()
    if not folder.is_dir():
        if data.startswith((".", "/", "~")) or data.count("/") > 1:
            raise ValueError(
                f"{folder} is no folder; give one with a LeRobotDataset, a Hub id, or a mixture file (.yaml)."
            )
        return MixtureConfig([EntryConfig(name=data, repo_id=data)])
    # LeRobot would fill a folder without metadata from the Hub.
    if not (folder / "meta" / "info.json").is_file():
        raise ValueError(
            f"{folder} is no LeRobotDataset: it has no meta/info.json. Give a dataset's folder, a Hub id, or a mixture "
            "file (.yaml)."
        )
    name = folder.resolve().name
    return MixtureConfig([EntryConfig(name=name, repo_id=f"local/{name}", root=str(folder))])


def configure_policy(
    mixture: MixtureConfig, policy: str | None, *, frame_gap: int | None = None, random_shift: int = 0
) -> PreTrainedConfig:
    """The configuration of a policy that fits a mixture: its frame gap, dimensions and embodiments.

    Args:
        mixture: The mixture.
        policy: Policy type; None chooses by whether there are actions.
        frame_gap: Frames, where neither the mixture nor its reference dataset gives seconds; None is the type's
            default.
        random_shift: In pixels.

    Raises:
        ValueError: The type is unknown or learns from no pairs, or a value is out of its range.
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
            f"--policy is {policy!r}; the types that learn from frame pairs are {sorted(known)}."
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
    """The flags of `lerobot-train` that this page stands for: those that are not the policy type's defaults."""
    folder = Path(data).expanduser()
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
    """Where a source's "state" or "action" is, as far as it has one."""
    config = source.config
    default = VectorMap(ACTION if name == "action" else OBS_STATE)
    column: VectorMap = getattr(config, name) or default
    return None if config.action_free or column.key not in source.meta.features else column


def _with_gap(mixture: MixtureConfig, frame_gap: int | None, frame_gap_s: float | None) -> MixtureConfig:
    if frame_gap is not None and frame_gap_s is not None:
        raise ValueError("--frame-gap and --frame-gap-s are both given; choose frames or seconds.")
    if frame_gap is None and frame_gap_s is None:
        return mixture
    entries = [replace(entry, frame_gap_s=None) for entry in mixture.entries]
    return replace(mixture, entries=entries, frame_gap_s=frame_gap_s)


def _is_local(data: str) -> bool:
    return is_mixture(data) or Path(data).expanduser().is_dir()


def _page_path(data: str, out: str | Path | None) -> Path:
    name = Path(data).expanduser().resolve().name if _is_local(data) else data.replace("/", "_")
    stem = Path(name).stem if is_mixture(data) else name
    page = OUTPUT_DIR / f"{stem}.html" if out is None else Path(out).expanduser()
    if page.is_dir():
        raise ValueError(f"--out {page} is a folder; give the page itself, e.g. {page / (stem + '.html')}.")
    if page.exists() and GENERATOR.encode() not in page.read_bytes()[:2000]:
        raise ValueError(f"--out {page} exists and is no page of `lara show-data`; choose another --out.")
    return page


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
    """Pictures of the pairs, with a color scale for the differences of each camera."""
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
