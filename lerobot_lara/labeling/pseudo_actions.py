"""Fits a decoder on demonstrations, and applies it to video: `lara fit-decoder` and `lara label --decoder`."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.utils.constants import ACTION, OBS_STATE
from tqdm import tqdm

from lerobot_lara.data.latent_labels.labels import LatentLabels
from lerobot_lara.files.user_path import user_path
from lerobot_lara.labeling.decoder import ActionDecoder, actions_of_frames, fit_decoder, frame_features
from lerobot_lara.labeling.engine import label_episode
from lerobot_lara.labeling.plan import LabelOptions, load_lam, make_plan, open_for_actions
from lerobot_lara.labeling.shards import frame_windows

logger = logging.getLogger(__name__)


def fit(
    lam_path: str,
    demos: str,
    out: str | Path,
    *,
    episodes: list[int] | None = None,
    camera: str | None = None,
    device: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Fits a decoder from a latent action model's latents to robot actions.

    Args:
        lam_path: Folder or Hub id of a checkpoint with a latent action model.
        demos: Folder or Hub id of demonstrations with actions.
        out: Folder of the decoder; it must be new or empty.
        episodes: Episodes to fit on; None takes all.
        camera: Camera of the dataset; None takes the one that the model was trained on.
        device: "cpu" or "cuda"; None takes CUDA if it is available.
        seed: Of the networks.

    Returns:
        The decoder's record.

    Raises:
        ValueError: The model or the demonstrations are missing or do not fit, or the folder holds something.
    """
    folder = user_path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"`out` is {folder}, which exists and is not empty. Pass a new folder.")
    source = open_for_actions(demos, episodes)
    plan = make_plan(lam_path, source, LabelOptions(device=device), camera=camera)
    lam, reader = load_lam(plan.lam, plan.manifest.frame_gap, device), plan.open_reader()
    has_state = OBS_STATE in source.meta.features
    gap, shifts = plan.manifest.frame_gap, np.zeros((1, 2), np.int64)
    parts: dict[str, list[np.ndarray]] = {
        name: [] for name in ("frame", "latent", "action", "state", "episode")
    }
    for position in tqdm(range(len(plan.episodes)), desc="Encoding demonstrations", unit="episode"):
        length = int(reader.lengths[position])
        count = length - gap
        if count <= 0:
            continue
        windows = list(frame_windows(plan, reader, position))
        labels = label_episode(lam, windows, length=length, shifts=shifts, no_motion=False)
        rows = range(int(reader.starts[position]), int(reader.starts[position]) + length)
        actions = reader.numbers(ACTION, rows)
        parts["frame"].append(frame_features(lam, windows)[:count])
        parts["latent"].append(labels.latent_action[:count, 0])
        parts["action"].append(np.stack([actions[start : start + gap] for start in range(count)]))
        if has_state:
            parts["state"].append(reader.numbers(OBS_STATE, rows)[:count])
        parts["episode"].append(np.full(count, plan.episodes[position]))
    if not parts["frame"]:
        raise ValueError(f"{demos} has no episode that is longer than the frame gap of {gap} frames.")
    joined = {name: np.concatenate(values) if values else None for name, values in parts.items()}
    decoder = fit_decoder(
        joined["frame"],  # type: ignore[arg-type]
        joined["latent"],  # type: ignore[arg-type]
        joined["action"],  # type: ignore[arg-type]
        joined["state"],
        joined["episode"],  # type: ignore[arg-type]
        seed=seed,
    )
    decoder.record.update(
        lam=plan.manifest.lam,
        frame_gap=gap,
        camera=plan.manifest.camera,
        frame_size=plan.manifest.frame_size,
        action_names=source.meta.features[ACTION].get("names"),
        state_names=source.meta.features[OBS_STATE].get("names") if has_state else None,
    )
    decoder.save(folder)
    return decoder.record


def pseudo_columns(
    lam_path: str, source: Any, labels: LatentLabels, decoder_path: str, *, device: str | None
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, Any]]:
    """Decodes the labels of a dataset into columns of actions, and of states if the demonstrations had any.

    Args:
        lam_path: The latent action model of the labels, whose frame encoder describes the frames.
        source: The opened dataset.
        labels: Its labels.
        decoder_path: Folder of the decoder.
        device: "cpu" or "cuda"; None takes CUDA if it is available.

    Returns:
        The columns, and the names of their dimensions.

    Raises:
        ValueError: The decoder is for another model or frame gap, the dataset has actions, or an episode is too short.
    """
    decoder = ActionDecoder.load(user_path(decoder_path))
    manifest, record = labels.manifest, decoder.record
    if record["lam"]["sha256"] != manifest.lam_sha256:
        raise ValueError(
            f"`decoder` is {decoder_path}, which was fitted for another latent action model "
            f"({record['lam']['name']}). Fit one for this model with `lara fit-decoder`."
        )
    for name in ("frame_gap", "frame_size"):
        if record[name] != getattr(manifest, name):
            raise ValueError(
                f"`decoder` is {decoder_path}, whose `{name}` is {record[name]}; it must be "
                f"{getattr(manifest, name)}, as in the labels. Fit it on demonstrations of the same rate and size."
            )
    taken = [name for name in (ACTION, OBS_STATE) if name in source.meta.features]
    if ACTION in taken:
        raise ValueError(
            f"{source.name} has actions of its own, which pseudo-actions would replace. Choose a dataset without, or "
            "remove them with `lerobot-edit-dataset`."
        )
    plan = make_plan(lam_path, source, LabelOptions(device=device), camera=manifest.camera)
    lam, reader = load_lam(plan.lam, manifest.frame_gap, device), plan.open_reader()
    latents, actions, states = labels.column("latent_action")[:, 0].astype(np.float32), [], []
    for position in tqdm(range(len(plan.episodes)), desc="Decoding actions", unit="episode"):
        start, length = int(reader.starts[position]), int(reader.lengths[position])
        valid = labels.valid[start : start + length]
        if not valid.any():
            raise ValueError(
                f"Episode {plan.episodes[position]} of {source.name} has no latent action: it has {length} frames, and "
                f"the frame gap is {manifest.frame_gap}, or it could not be read. Delete it with "
                "`lerobot-edit-dataset`."
            )
        features = frame_features(lam, frame_windows(plan, reader, position))
        chunks, state = decoder.decode(features, latents[start : start + length])
        actions.append(actions_of_frames(chunks, valid, manifest.frame_gap))
        if state is not None:
            states.append(state)
    everywhere = np.ones(len(labels), bool)
    columns = {ACTION: (np.concatenate(actions), everywhere)}
    names = {ACTION: record["action_names"], OBS_STATE: record["state_names"]}
    if states and OBS_STATE not in taken:
        columns[OBS_STATE] = (np.concatenate(states), everywhere)
    return columns, names
