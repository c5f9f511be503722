"""Decodes latent actions into robot actions, for pseudo-labels (LAPA, arXiv 2410.11758; LAOM, arXiv 2502.00379).

A small network learns on a few demonstrations which action chunk belongs to a frame and a latent action. Whether the
latent action helps is measured on held-out episodes against the frame alone: a scripted or skilled expert acts by what
it sees, so that the frame alone may tell as much.

Legend: N frames, K frame gap and length of the chunk, A action dim, S state dim, X width of a frame's features.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from lerobot_lara.files.atomic import replaced_file, write_json
from lerobot_lara.files.reading import read_json_object
from lerobot_lara.lam.latent_action_model import LatentActionModel

WEIGHTS, RECORD = "decoder.safetensors", "decoder.json"
# Frames are described by the averages over a grid of this side, and then by this many principal components.
GRID, COMPONENTS = 4, 64
NUM_MODELS = 3
FRAME, LATENT, BOTH = "frame", "latent action", "frame and latent action"


@torch.no_grad()
def frame_features(lam: LatentActionModel, windows: Iterable[Tensor]) -> np.ndarray:
    """Describes frames by the tokens of a LAM's frame encoder, averaged over a grid.

    Args:
        lam: In eval mode.
        windows: Frames in order, in parts (n, 3, H, W) uint8.

    Returns:
        (N, X) float32.
    """
    device = next(lam.parameters()).device
    parts = []
    for window in windows:
        tokens = lam.frame_encoder(window.to(device).float() / 255).transpose(1, 2).float()  # (n, D, P)
        side = round(tokens.shape[-1] ** 0.5)
        if side**2 == tokens.shape[-1]:
            pooled = F.adaptive_avg_pool2d(tokens.unflatten(2, (side, side)), min(GRID, side))
        else:
            pooled = F.adaptive_avg_pool1d(tokens, GRID**2)
        parts.append(pooled.flatten(1).cpu())
    return torch.cat(parts).numpy()


@dataclass(frozen=True)
class ActionDecoder:
    """Networks with one hidden layer, whose outputs are averaged.

    Args:
        weights: Of the projection of frames, and of each network.
        record: What it was fitted on, and how well it does.
    """

    weights: dict[str, np.ndarray]
    record: dict[str, Any]

    def decode(self, features: np.ndarray, latents: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Decodes latent actions.

        Args:
            features: (N, X) of the frames.
            latents: (N, L * C).

        Returns:
            Actions (N, K, A), and states (N, S) or None, in the units of the demonstrations.
        """
        weights = self.weights
        components = (features - weights["mean"]) @ weights["components"].T
        inputs = np.concatenate([components, latents], axis=1)
        outputs = np.mean(
            [
                _run({name: weights[f"{model}.{name}"] for name in _LAYERS}, inputs)
                for model in range(NUM_MODELS)
            ],
            axis=0,
        )
        outputs = outputs * weights["output_std"] + weights["output_mean"]
        steps, dim = self.record["steps"], self.record["action_dim"]
        actions = outputs[:, : steps * dim].reshape(-1, steps, dim)
        states = outputs[:, steps * dim :]
        return actions.astype(np.float32), states.astype(np.float32) if states.shape[1] else None

    def save(self, folder: Path) -> None:
        """Writes the decoder into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        with replaced_file(folder / WEIGHTS) as partial:
            save_file(self.weights, partial)
        write_json(folder / RECORD, self.record)

    @classmethod
    def load(cls, folder: Path) -> "ActionDecoder":
        """Reads a decoder.

        Raises:
            ValueError: There is none.
        """
        if not (folder / RECORD).is_file():
            raise ValueError(
                f"{folder} holds no decoder: it has no {RECORD}. Make one with `lara fit-decoder`."
            )
        return cls(load_file(folder / WEIGHTS), read_json_object(folder / RECORD))


_LAYERS = ("input_mean", "input_std", "hidden.weight", "hidden.bias", "output.weight", "output.bias")


def _run(weights: dict[str, np.ndarray], inputs: np.ndarray) -> np.ndarray:
    scaled = (inputs - weights["input_mean"]) / weights["input_std"]
    hidden = F.gelu(
        torch.from_numpy(scaled.astype(np.float32) @ weights["hidden.weight"].T + weights["hidden.bias"])
    )
    return hidden.numpy() @ weights["output.weight"].T + weights["output.bias"]


def fit_decoder(
    features: np.ndarray,
    latents: np.ndarray,
    actions: np.ndarray,
    states: np.ndarray | None,
    episodes: np.ndarray,
    *,
    seed: int,
) -> ActionDecoder:
    """Fits a decoder, and measures it on episodes that it was not fitted on.

    Args:
        features: (N, X) of the frames.
        latents: (N, L * C).
        actions: (N, K, A) from each frame on.
        states: (N, S); None without a state.
        episodes: (N,) episode of each frame, at least four different ones.
        seed: Of the networks.

    Returns:
        The decoder; its record has `r2`, the explained share of the variance of held-out actions, from each input.

    Raises:
        ValueError: There are too few episodes, or scikit-learn is missing.
    """
    try:
        from sklearn.decomposition import PCA

        from lerobot_lara.evaluation.probe.regression import fit_mlp, held_out_predictions
    except ImportError as error:
        raise ValueError(
            "Fitting a decoder needs scikit-learn. Install this package with its extra `label`."
        ) from error
    if len(np.unique(episodes)) < 4:
        raise ValueError(
            f"The demonstrations have {len(np.unique(episodes))} episode(s) that are longer than the frame gap; a "
            "decoder needs at least 4, some of which are held out. Record more."
        )
    count = min(COMPONENTS, *features.shape)
    pca = PCA(count, random_state=seed).fit(features)
    frame = ((features - pca.mean_) @ pca.components_.T).astype(np.float64)
    flat = actions.reshape(len(actions), -1)
    outputs = flat if states is None else np.concatenate([flat, states], axis=1)
    mean, std = outputs.mean(0), outputs.std(0)
    std = np.where(std > 1e-6 * np.maximum(np.abs(mean), 1e-6), std, 1.0)
    scaled = ((outputs - mean) / std).astype(np.float64)
    inputs = {FRAME: frame, LATENT: latents.astype(np.float64)}
    inputs[BOTH] = np.concatenate([frame, inputs[LATENT]], axis=1)
    r2 = {}
    for name, values in inputs.items():
        predicted = held_out_predictions("mlp", values, scaled, episodes, seed=seed)[""]
        width = flat.shape[1]
        squared_error = np.square(predicted[:, :width] - scaled[:, :width]).mean()
        r2[name] = float(1 - squared_error / scaled[:, :width].var(0).mean())
    weights = {"mean": pca.mean_, "components": pca.components_, "output_mean": mean, "output_std": std}
    for model in range(NUM_MODELS):
        fitted: Any = fit_mlp(inputs[BOTH], scaled, episodes, seed=seed + model)
        layers = {
            "input_mean": fitted.scaler.mean_,
            "input_std": fitted.scaler.scale_,
            "hidden.weight": fitted.net[0].weight.detach().numpy(),
            "hidden.bias": fitted.net[0].bias.detach().numpy(),
            "output.weight": fitted.net[2].weight.detach().numpy(),
            "output.bias": fitted.net[2].bias.detach().numpy(),
        }
        weights |= {f"{model}.{name}": value for name, value in layers.items()}
    record = {
        "steps": actions.shape[1],
        "action_dim": actions.shape[2],
        "state_dim": 0 if states is None else states.shape[1],
        "episodes": len(np.unique(episodes)),
        "r2": r2,
    }
    return ActionDecoder(
        {name: np.ascontiguousarray(value, np.float32) for name, value in weights.items()}, record
    )


def actions_of_frames(chunks: np.ndarray, valid: np.ndarray, frame_gap: int) -> np.ndarray:
    """One action for each frame of an episode: the first of its own chunk, or at the end the rest of the last chunk.

    Args:
        chunks: (N, K, A).
        valid: (N,) bool, True at the first frames, which have a chunk; at least one.
        frame_gap: K.

    Returns:
        (N, A).
    """
    last = int(np.flatnonzero(valid)[-1])
    frames = np.arange(len(valid))
    of = np.minimum(frames, last)
    return chunks[of, np.minimum(frames - of, frame_gap - 1)]


def summary(record: dict[str, Any]) -> str:
    """What a decoder's record says about it, in words."""
    r2 = record["r2"]
    text = ", ".join(f"{name} {value:.2f}" for name, value in r2.items())
    gain = r2[BOTH] - r2[FRAME]
    if r2[BOTH] <= 0:
        return (
            f"R2 of held-out actions ({record['episodes']} episodes): {text}; no better than the mean action."
        )
    verdict = (
        f"the latent action adds {gain:.2f} to the frame alone"
        if gain > 0
        else "the latent action adds nothing to the frame alone: these pseudo-actions tell no more than a policy knows"
    )
    return f"R2 of held-out actions ({record['episodes']} episodes): {text}; {verdict}."
