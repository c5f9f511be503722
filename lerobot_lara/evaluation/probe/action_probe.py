"""What the latent action tells of the robot's actions between the two frames, and what it adds to o_t.

With a scripted expert, or a good human one, the action is nearly a function of what is seen, so that a latent that
only describes o_t predicts it well. What counts is the increment over o_t alone.

Shapes: N pairs, K frame gap, A action dimensions, D latent width, F feature width.
"""

from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from lerobot_lara.evaluation.probe.bootstrap import EpisodeBootstrap, Estimate
from lerobot_lara.evaluation.probe.regression import held_out_predictions

KINDS = ("ridge", "mlp")
RETRIEVAL_BATCH = 32
OBSERVATION, LATENT, BOTH = "o_t", "latent", "o_t + latent"
# What the latent tells beyond o_t must exceed what it tells when nothing moves.
STILL = "o_t + still latent"


@dataclass(frozen=True)
class ProbeInputs:
    """What actions are predicted from.

    Attributes:
        observation: (N, ...) o_t alone.
        still: (N, D) latents of the pairs (o_t, o_t).
        latents: (N, D).
        shuffled: (N, D) latents of other episodes' pairs.
        feature_difference: (N, F) f(o_{t+K}) - f(o_t).
        quantized: (N, D), or None without a quantizer.
        distracted: Latents (N, D) of the same pairs with a distractor, by its name.
    """

    observation: np.ndarray
    still: np.ndarray
    latents: np.ndarray
    shuffled: np.ndarray
    feature_difference: np.ndarray
    quantized: np.ndarray | None
    distracted: dict[str, np.ndarray]


@dataclass(frozen=True)
class ActionProbe:
    """Results; every episode was held out once.

    Attributes:
        r2: Explained share of the variance of all action dimensions, by kind of probe and by input.
        r2_by_dimension: The same of each action dimension, from the latent and from o_t, by kind, input and dimension.
        mse: Mean squared error, in units of each dimension's variance, by kind and input.
        together: R2 of o_t and latent, with the better of the probes.
        baseline: R2 of what is known without motion: o_t, or o_t and the still latent, with the better of the probes.
        retrieval: How often the chunk predicted from the latent (ridge) is nearest to its own among 32.
        retrieval_chance: The same of a constant prediction.
        distracted_r2: R2 from the latent (ridge) of pairs with a distractor, by its name.
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
        """R2 that the latent adds to o_t."""
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
    """Fits probes to action chunks.

    Args:
        inputs: What to predict from.
        actions: (N, K, A), each dimension with some variance.
        names: Of the A dimensions.
        episodes: (N,).
        bootstrap: Of these episodes.
        seed: Of the folds, of the MLP, of the random latents and of the retrieval's batches.
    """
    targets = (actions - actions.mean((0, 1))) / actions.std((0, 1))  # every dimension counts alike
    flat = targets.reshape(len(targets), -1)  # (N, K * A)
    random = np.random.default_rng(seed).standard_normal(inputs.latents.shape)
    sources = {
        OBSERVATION: inputs.observation,
        LATENT: inputs.latents,
        BOTH: np.concatenate([inputs.observation, inputs.latents], axis=1),
        STILL: np.concatenate([inputs.observation, inputs.still], axis=1),
        "feature difference": inputs.feature_difference,
        "shuffled latent": inputs.shuffled,
        "random latent": random,
    }
    if inputs.quantized is not None:
        sources["quantized latent"] = inputs.quantized
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
            name: np.square(values - flat).reshape(targets.shape) for name, values in predicted.items()
        }
        r2[kind][source] = r2_score(targets, squared[""], bootstrap)
        mse[kind][source] = bootstrap.mean(squared[""].mean((1, 2)))
        if source in (OBSERVATION, LATENT, BOTH):
            by_dimension[kind][source] = {
                name: r2_score(targets[..., [dim]], squared[""][..., [dim]], bootstrap)
                for dim, name in enumerate(names)
            }
        if (source, kind) == (LATENT, "ridge"):
            linear = predicted
            distracted = {name: r2_score(targets, squared[name], bootstrap) for name in inputs.distracted}
    better = {source: r2["ridge"][source].maximum(r2["mlp"][source]) for source in (OBSERVATION, STILL, BOTH)}
    hits, chance = retrieve(linear[""], flat, batch_size=RETRIEVAL_BATCH, seed=seed)
    return ActionProbe(
        r2=r2,
        r2_by_dimension=by_dimension,
        mse=mse,
        together=better[BOTH],
        baseline=better[OBSERVATION].maximum(better[STILL]),
        retrieval=bootstrap.mean(hits),
        retrieval_chance=chance,
        distracted_r2=distracted,
    )


def r2_score(targets: np.ndarray, squared_errors: np.ndarray, bootstrap: EpisodeBootstrap) -> Estimate:
    """Explained share of the variance, 1 - SSE / SST, over all steps and dimensions; 0 for predicting the mean.

    Args:
        targets: (N, K, A).
        squared_errors: (N, K, A).
        bootstrap: Of the episodes of the N pairs.
    """

    def statistic(error: np.ndarray, total: np.ndarray, square: np.ndarray, count: np.ndarray) -> np.ndarray:
        spread = (square - total**2 / count[:, None]).sum(1)
        # Resampled episodes may all have the same actions.
        return 1 - error / np.maximum(spread, 1e-12)

    flat = targets.reshape(len(targets), -1)
    return bootstrap(statistic, squared_errors.sum((1, 2)), flat, flat**2, np.ones(len(flat)))


def retrieve(
    predicted: np.ndarray, targets: np.ndarray, *, batch_size: int, seed: int
) -> tuple[np.ndarray, float]:
    """Whether each prediction is nearest to its own target among those of a random batch.

    Args:
        predicted: (N, Y).
        targets: (N, Y).
        batch_size: Candidates; fewer if there are fewer pairs.
        seed: Of the batches.

    Returns:
        (N,) hits: 1, 0, or 1 / n where the n nearest targets are equal; and the share that is expected of a
        prediction that says nothing.
    """
    size = min(batch_size, len(targets))
    # Each pair meets other candidates drawn at random, itself in the first place.
    generator = np.random.default_rng(seed)
    others = generator.integers(1, len(targets), size=(len(targets), size - 1))
    candidates = np.concatenate([np.zeros((len(targets), 1), np.int64), others], axis=1)
    candidates = (candidates + np.arange(len(targets))[:, None]) % len(targets)
    hits = np.empty(len(targets))
    for row, chosen in enumerate(candidates):
        distances = np.square(predicted[row] - targets[chosen]).sum(1)
        nearest = distances <= distances.min() * (1 + 1e-9)
        hits[row] = nearest[0] / nearest.sum()
    return hits, 1 / size
