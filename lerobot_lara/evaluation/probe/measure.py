"""All measurements of a latent action model on a set of pairs."""

import logging
from dataclasses import dataclass

import numpy as np

from lerobot_lara.evaluation.probe.action_probe import LATENT, ActionProbe, ProbeInputs, probe_actions
from lerobot_lara.evaluation.probe.bootstrap import EpisodeBootstrap, Estimate
from lerobot_lara.evaluation.probe.data import Pairs, partners
from lerobot_lara.evaluation.probe.distractors import distractors
from lerobot_lara.evaluation.probe.encoding import encode_frames, encode_pairs
from lerobot_lara.evaluation.probe.labeled import LabeledLatents
from lerobot_lara.evaluation.probe.latent_statistics import LatentStatistics, measure_latents
from lerobot_lara.evaluation.probe.model import Latents, ProbedModel
from lerobot_lara.evaluation.probe.prediction import (
    COPY,
    OWN,
    SHUFFLED,
    Prediction,
    measure_prediction,
    squared_errors,
)
from lerobot_lara.evaluation.probe.transfer import (
    Transfer,
    apply_and_encode,
    centered_cosine,
    measure_transfer,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Robustness:
    """The measurements with the latent of the distracted pair instead of the clean one; everything else stays clean.

    Attributes:
        displacement: Root mean square change of the latent, divided by the spread of the clean latents; infinite if
            these are constant.
        r2: R2 of the actions from the latent, by the linear probe fitted on clean latents; None without actions.
        psnr_gain: PSNR of the prediction minus PSNR of copying o_t, in dB; None if the model predicts no frames.
        cycle_cosine: Cycle consistency with the clean latent; None if the model predicts no frames.
    """

    displacement: Estimate
    r2: Estimate | None
    psnr_gain: Estimate | None
    cycle_cosine: Estimate | None


@dataclass(frozen=True)
class Measurement:
    """Everything that was measured for one model.

    Attributes:
        latents: Latents of the pairs.
        partners: (N,) index of a pair from another episode, for each pair.
        statistics: Spread of the latents and code usage.
        action: Action probes; None without actions.
        prediction: Forward prediction; None if the model predicts no frames.
        transfer: Transfer to other episodes; None if the model predicts no frames.
        robustness: Results by distractor; none for labels.
    """

    latents: Latents
    partners: np.ndarray
    statistics: LatentStatistics
    action: ActionProbe | None
    prediction: Prediction | None
    transfer: Transfer | None
    robustness: dict[str, Robustness]

    @property
    def gain_over_copy(self) -> Estimate | None:
        """PSNR with the pair's own latent minus PSNR of copying o_t, in dB."""
        return self._gain(COPY)

    @property
    def gain_over_shuffled(self) -> Estimate | None:
        """PSNR with the pair's own latent minus PSNR with another pair's latent, in dB."""
        return self._gain(SHUFFLED)

    @property
    def cycle_gain(self) -> Estimate | None:
        """Cosine of the recovered latent with the applied one minus its cosine with another latent."""
        return None if self.transfer is None else self.transfer.cosine - self.transfer.shuffled_cosine

    @property
    def latent_r2(self) -> Estimate | None:
        """R2 of the actions from the latent, by the linear probe."""
        return None if self.action is None else self.action.r2["ridge"][LATENT]

    @property
    def increment(self) -> Estimate | None:
        """Increase in R2 of the actions when the latent is added to o_t."""
        return None if self.action is None else self.action.increment

    def _gain(self, over: str) -> Estimate | None:
        psnr = None if self.prediction is None else self.prediction.psnr
        return None if psnr is None else psnr[OWN] - psnr[over]


def measure(
    model: ProbedModel | LabeledLatents, pairs: Pairs, *, seed: int = 0, device: str = "cpu"
) -> Measurement:
    """Measures a latent action model.

    Args:
        model: The model, or labels, of which everything that needs no model is measured.
        pairs: Pairs from at least `data.MIN_EPISODES` episodes, with the model's frame gap.
        seed: Seed for all random choices. Estimates with equal seeds and pairs are paired.
        device: Device on which LPIPS is computed.

    Returns:
        The measurements.

    Raises:
        ValueError: If the latents are not finite.
    """
    bootstrap = EpisodeBootstrap(pairs.episodes, seed=seed)
    others = partners(pairs.episodes, seed=seed)
    live = None if isinstance(model, LabeledLatents) else model
    encoded = model.encoded(pairs) if isinstance(model, LabeledLatents) else encode_pairs(model, pairs)
    latents = encoded.latents
    if not latents.continuous.isfinite().all():
        raise ValueError(
            "The latent actions are not finite: the checkpoint is damaged, or its training diverged. Probe another "
            "checkpoint."
        )
    distracted = {}
    if live is not None:
        distracted = {
            name: encode_frames(live, pairs, change, title=f"Encoding with a {name}")
            for name, change in distractors(seed, len(pairs)).items()
        }
    action = None
    if pairs.actions is not None:
        inputs = ProbeInputs(
            observation=encoded.observation,
            no_motion=encoded.no_motion,
            latents=latents.continuous.numpy(),
            shuffled=latents.continuous[others].numpy(),
            feature_difference=encoded.features[:, 1] - encoded.features[:, 0],
            quantized=None if latents.codes is None else latents.quantized.numpy(),
            distracted={name: each.continuous.numpy() for name, each in distracted.items()},
        )
        action = probe_actions(
            inputs, pairs.actions, pairs.action_names, pairs.episodes, bootstrap=bootstrap, seed=seed
        )
    prediction = transfer = None
    if live is not None and live.decodes:
        prediction = measure_prediction(live, pairs, latents, others, bootstrap=bootstrap, device=device)
        transfer = measure_transfer(live, pairs, latents, others, bootstrap=bootstrap, seed=seed)
    measurement = Measurement(
        latents=latents,
        partners=others,
        statistics=measure_latents(latents, model.codebook_size),
        action=action,
        prediction=prediction,
        transfer=transfer,
        robustness={},
    )
    for name, changed in distracted.items():
        measurement.robustness[name] = _robustness(
            live,
            pairs,
            measurement,
            changed,
            None if action is None else action.distracted_r2[name],
            bootstrap,
        )
    return measurement


def _robustness(
    model: ProbedModel | None,
    pairs: Pairs,
    clean: Measurement,
    distracted: Latents,
    r2: Estimate | None,
    bootstrap: EpisodeBootstrap,
) -> Robustness:
    latents = clean.latents.continuous
    center = latents.mean(0)
    displacement = bootstrap(
        _root_ratio,
        (distracted.continuous - latents).square().sum(1).numpy(),
        (latents - center).square().sum(1).numpy(),
    )
    if model is None or clean.prediction is None:
        return Robustness(displacement, r2, None, None)
    errors = squared_errors(model, pairs, distracted.quantized)
    recovered = apply_and_encode(model, pairs, distracted.quantized, clean.partners)
    return Robustness(
        displacement=displacement,
        r2=r2,
        psnr_gain=bootstrap.psnr(errors) - clean.prediction.psnr[COPY],
        cycle_cosine=bootstrap.mean(centered_cosine(recovered.continuous, latents, center)),
    )


def _root_ratio(change: np.ndarray, spread: np.ndarray) -> np.ndarray:
    return np.where(spread > 1e-12, np.sqrt(change / np.maximum(spread, 1e-12)), np.inf)
