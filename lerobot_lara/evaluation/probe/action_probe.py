"""How well the robot's actions between two frames can be predicted from the latent action, and what it adds to o_t.

A scripted or skilled human expert chooses its action from what it sees, so a latent that merely describes o_t predicts
that action well. What counts is how much the latent improves on o_t alone.

Shapes: N pairs, K frame gap, A action dimensions, D latent width, F feature width, Y = K * A.
"""

from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from lerobot_lara.evaluation.probe.bootstrap import EpisodeBootstrap, Estimate
from lerobot_lara.evaluation.probe.regression import held_out_predictions

KINDS = ("ridge", "mlp")
RETRIEVAL_BATCH = 32
OBSERVATION, LATENT, BOTH = "o_t", "latent", "o_t + latent"
# The latent of the pair (o_t, o_t) shows what the latent says about o_t itself, which is no information about motion.
NO_MOTION = "o_t + no-motion latent"


@dataclass(frozen=True)
class ProbeInputs:
    """What the probes predict actions from.

    Attributes:
        observation: (N, ...) features of o_t alone.
        no_motion: (N, D) latents of the pairs (o_t, o_t); None if they are not known.
        latents: (N, D) latents of the pairs.
        shuffled: (N, D) latents of pairs from other episodes.
        feature_difference: (N, F) f(o_{t+K}) - f(o_t).
        quantized: (N, D) quantized latents, or None without a quantizer.
        distracted: Latents (N, D) of the same pairs with a distractor, by the distractor's name.
    """

    observation: np.ndarray
    no_motion: np.ndarray | None
    latents: np.ndarray
    shuffled: np.ndarray
    feature_difference: np.ndarray
    quantized: np.ndarray | None
    distracted: dict[str, np.ndarray]


@dataclass(frozen=True)
class ActionProbe:
    """Results of the action probes. Every episode was held out once.

    Attributes:
        r2: Explained share of the variance of all action dimensions, by kind of probe and input.
        r2_by_dimension: The same for each action dimension, by kind of probe, input (o_t, latent, both) and dimension.
        mse: Mean squared error in units of each dimension's variance, by kind of probe and input.
        together: R2 from o_t and the latent, using the better kind of probe.
        baseline: R2 from what is known without motion, which is o_t or o_t with the no-motion latent, using the better
            input and kind of probe.
        retrieval: Share of pairs whose own action chunk, among 32, is the nearest to the one that the linear probe
            predicts from the latent.
        retrieval_chance: Expected retrieval of a constant prediction.
        distracted_r2: R2 of the linear probe on latents of pairs with a distractor, by the distractor's name.
    """

    r2: dict[str, dict[str, Estimate]]
    r2_by_dimension: dict[str, dict[str, dict[str, Estimate]]]
    mse: dict[str, dict[str, Estimate]]
    together: Estimate
    baseline: Estimate
    retrieval: Estimate
    retrieval_chance: float
    distracted_r2: dict[str, Estimate]

    @property
    def increment(self) -> Estimate:
        """Increase in R2 when the latent is added to o_t."""
        return self.together - self.baseline


def probe_actions(
    inputs: ProbeInputs,
    actions: np.ndarray,
    names: list[str],
    episodes: np.ndarray,
    *,
    bootstrap: EpisodeBootstrap,
    seed: int,
) -> ActionProbe:
    """Fits probes to action chunks and scores them on held-out episodes.

    Args:
        inputs: What to predict from.
        actions: (N, K, A) actions; each dimension varies.
        names: Names of the A dimensions.
        episodes: (N,) episode of each pair.
        bootstrap: Bootstrap over these episodes.
        seed: Seed for the cross-validation folds, the MLP, the random latents and the retrieval candidates.

    Returns:
        The scores, with their confidence intervals.
    """
    normalized = (actions - actions.mean((0, 1))) / actions.std((0, 1))  # every dimension counts alike
    flat = normalized.reshape(len(normalized), -1)  # (N, K, A) -> (N, Y)
    sources = _sources(inputs, seed)
    r2: dict[str, dict[str, Estimate]] = {kind: {} for kind in KINDS}
    mse: dict[str, dict[str, Estimate]] = {kind: {} for kind in KINDS}
    by_dimension: dict[str, dict[str, dict[str, Estimate]]] = {kind: {} for kind in KINDS}
    linear: dict[str, np.ndarray] = {}
    for source, kind in tqdm(
        [(source, kind) for source in sources for kind in KINDS], desc="Action probes", unit="probe"
    ):
        predicted = held_out_predictions(
            kind,
            sources[source],
            flat,
            episodes,
            seed=seed,
            variants=inputs.distracted if (source, kind) == (LATENT, "ridge") else None,
        )
        squared = {
            name: np.square(values - flat).reshape(normalized.shape) for name, values in predicted.items()
        }
        r2[kind][source] = r2_score(normalized, squared[""], bootstrap)
        mse[kind][source] = bootstrap.mean(squared[""].mean((1, 2)))
        if source in (OBSERVATION, LATENT, BOTH):
            by_dimension[kind][source] = {
                name: r2_score(normalized[..., [dim]], squared[""][..., [dim]], bootstrap)
                for dim, name in enumerate(names)
            }
        if (source, kind) == (LATENT, "ridge"):
            linear = predicted
            distracted = {name: r2_score(normalized, squared[name], bootstrap) for name in inputs.distracted}
    better = {
        source: r2["ridge"][source].maximum(r2["mlp"][source])
        for source in (OBSERVATION, NO_MOTION, BOTH)
        if source in sources
    }
    baseline = better[OBSERVATION]
    if NO_MOTION in better:
        baseline = baseline.maximum(better[NO_MOTION])
    hits, chance = retrieve(linear[""], flat, batch_size=RETRIEVAL_BATCH, seed=seed)
    return ActionProbe(
        r2=r2,
        r2_by_dimension=by_dimension,
        mse=mse,
        together=better[BOTH],
        baseline=baseline,
        retrieval=bootstrap.mean(hits),
        retrieval_chance=chance,
        distracted_r2=distracted,
    )


def _sources(inputs: ProbeInputs, seed: int) -> dict[str, np.ndarray]:
    """The inputs of the probes, (N, X) each, by the name under which the report lists them."""
    no_motion = {}
    if inputs.no_motion is not None:
        no_motion[NO_MOTION] = np.concatenate([inputs.observation, inputs.no_motion], axis=1)
    sources = {
        OBSERVATION: inputs.observation,
        LATENT: inputs.latents,
        BOTH: np.concatenate([inputs.observation, inputs.latents], axis=1),
        **no_motion,
        "feature difference": inputs.feature_difference,
        "shuffled latent": inputs.shuffled,
        "random latent": np.random.default_rng(seed).standard_normal(inputs.latents.shape),
    }
    if inputs.quantized is not None:
        sources["quantized latent"] = inputs.quantized
    return sources


def r2_score(actions: np.ndarray, squared_errors: np.ndarray, bootstrap: EpisodeBootstrap) -> Estimate:
    """Explained share of the variance, 1 - SSE / SST, over all steps and dimensions.

    Args:
        actions: (N, K, A) true values.
        squared_errors: (N, K, A) squared errors of the predictions.
        bootstrap: Bootstrap over the episodes of the N pairs.

    Returns:
        R2: 1 for perfect predictions, 0 for predicting the mean, negative below that.
    """

    def statistic(error: np.ndarray, total: np.ndarray, square: np.ndarray, count: np.ndarray) -> np.ndarray:
        spread = (square - total**2 / count[:, None]).sum(1)
        # Resampled episodes may all have the same actions.
        return 1 - error / np.maximum(spread, 1e-12)

    flat = actions.reshape(len(actions), -1)
    return bootstrap(statistic, squared_errors.sum((1, 2)), flat, flat**2, np.ones(len(flat)))


def retrieve(
    predicted: np.ndarray, actual: np.ndarray, *, batch_size: int, seed: int
) -> tuple[np.ndarray, float]:
    """Checks whether each prediction is nearest to its own true value among randomly drawn candidates.

    Args:
        predicted: (N, Y) predictions.
        actual: (N, Y) true values.
        batch_size: Number of candidates, the true value included; at most N are used.
        seed: Seed for drawing the candidates.

    Returns:
        Hits (N,), which are 1, 0, or 1 / n where the n nearest candidates are equally near; and the expected mean of
        the hits for a prediction that carries no information.
    """
    count = len(actual)
    size = min(batch_size, count)
    # Column 0 is the pair itself, the others are drawn at random.
    others = np.random.default_rng(seed).integers(1, count, size=(count, size - 1))
    candidates = np.concatenate([np.zeros((count, 1), np.int64), others], axis=1)
    candidates = (candidates + np.arange(count)[:, None]) % count
    hits = np.empty(count)
    for row, chosen in enumerate(candidates):
        distances = np.square(predicted[row] - actual[chosen]).sum(1)
        nearest = distances <= distances.min() * (1 + 1e-9)
        hits[row] = nearest[0] / nearest.sum()
    return hits, 1 / size
