"""Probes from features to action chunks, fitted and tuned on other episodes than the ones they predict.

Shapes: N pairs, X input width, Y output width.
"""

import copy
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold, GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

# Every episode is held out once.
NUM_FOLDS = 5
# Folds over the training episodes that select the strength of the ridge.
NUM_INNER_FOLDS = 3
RIDGE_ALPHAS = 10.0 ** np.arange(-1, 6)
# Share of the training episodes that is held out for early stopping of the MLP.
STOPPING_SHARE = 0.2


class Regressor(Protocol):
    """A fitted probe."""

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Predicts outputs (N, Y) from inputs (N, X)."""


def held_out_predictions(
    kind: str,
    inputs: np.ndarray,
    outputs: np.ndarray,
    episodes: np.ndarray,
    *,
    seed: int,
    variants: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Predicts the outputs of each pair with a probe that was fitted without its episode.

    Args:
        kind: "ridge" or "mlp".
        inputs: (N, X).
        outputs: (N, Y) true values, with a standard deviation of about 1.
        episodes: (N,) episode of each pair, at least three different ones.
        seed: Seed for the cross-validation folds and the MLP.
        variants: Other inputs (N, X) of the same pairs, to which the same fitted probes are applied.

    Returns:
        Predictions (N, Y), by name: "" for `inputs`, and the names of `variants`.
    """
    fit = {"ridge": fit_ridge, "mlp": fit_mlp}[kind]
    everything = {"": inputs, **(variants or {})}
    predictions = {name: np.empty_like(outputs) for name in everything}
    folds = GroupKFold(min(NUM_FOLDS, len(np.unique(episodes))), shuffle=True, random_state=seed)
    for training, held_out in folds.split(inputs, groups=episodes):
        probe = fit(inputs[training], outputs[training], episodes[training], seed=seed)
        for name, values in everything.items():
            predictions[name][held_out] = probe.predict(values[held_out]).reshape(len(held_out), -1)
    return predictions


def fit_ridge(inputs: np.ndarray, outputs: np.ndarray, episodes: np.ndarray, *, seed: int) -> Regressor:
    """Fits a linear probe whose regularization is the best of `RIDGE_ALPHAS` on held-out training episodes.

    Args:
        inputs: (N, X).
        outputs: (N, Y).
        episodes: (N,) episode of each pair, at least two different ones.
        seed: Seed for the cross-validation folds.
    """
    folds = GroupKFold(min(NUM_INNER_FOLDS, len(np.unique(episodes))), shuffle=True, random_state=seed)
    splits = list(folds.split(inputs, groups=episodes))
    ridge = RidgeCV(alphas=RIDGE_ALPHAS, cv=splits, scoring="neg_mean_squared_error")
    return make_pipeline(StandardScaler(), ridge).fit(inputs, outputs)


def fit_mlp(
    inputs: np.ndarray,
    outputs: np.ndarray,
    episodes: np.ndarray,
    *,
    seed: int,
    hidden: int = 128,
    max_epochs: int = 60,
    patience: int = 6,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
    weight_decay: float = 1e-2,
) -> Regressor:
    """Fits a probe with one hidden layer and keeps the epoch that predicts held-out training episodes best.

    Args:
        inputs: (N, X).
        outputs: (N, Y).
        episodes: (N,) episode of each pair, at least two different ones.
        seed: Seed for the weights, the batches and the choice of held-out training episodes.
        hidden: Width of the hidden layer.
        max_epochs: Largest number of epochs.
        patience: Epochs without improvement after which training ends.
        batch_size: Pairs per step.
        learning_rate: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
    """
    # scikit-learn's MLPRegressor stops early on random rows, which belong to the episodes that it trains on.
    split = GroupShuffleSplit(1, test_size=STOPPING_SHARE, random_state=seed)
    training, stopping = next(split.split(inputs, groups=episodes))
    scaler = StandardScaler().fit(inputs[training])
    x, y = torch.from_numpy(scaler.transform(inputs)).float(), torch.from_numpy(outputs).float()
    rows = torch.from_numpy(training)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        readout = nn.Linear(hidden, y.shape[1])
        net = nn.Sequential(nn.Linear(x.shape[1], hidden), nn.GELU(), readout)
        # The probe starts by predicting the mean, and stays there if the inputs carry no information.
        nn.init.zeros_(readout.weight)
        readout.bias.data.copy_(y[rows].mean(0))
        optimizer = torch.optim.AdamW(net.parameters(), lr=learning_rate, weight_decay=weight_decay)
        best, best_error, waited = copy.deepcopy(net.state_dict()), _error(net, x[stopping], y[stopping]), 0
        for _ in range(max_epochs):
            for batch in rows[torch.randperm(len(rows))].split(batch_size):
                optimizer.zero_grad()
                (net(x[batch]) - y[batch]).square().mean().backward()
                optimizer.step()
            error = _error(net, x[stopping], y[stopping])
            waited = 0 if error < best_error else waited + 1
            if error < best_error:
                best, best_error = copy.deepcopy(net.state_dict()), error
            if waited == patience:
                break
    net.load_state_dict(best)
    return _Scaled(scaler, net)


class _Scaled:
    """A network behind the scaler of its inputs."""

    def __init__(self, scaler: StandardScaler, net: nn.Module) -> None:
        self.scaler, self.net = scaler, net

    @torch.no_grad()
    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Implements `Regressor.predict`."""
        return self.net(torch.from_numpy(self.scaler.transform(inputs)).float()).numpy()


@torch.no_grad()
def _error(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    return (net(x) - y).square().mean().item()
