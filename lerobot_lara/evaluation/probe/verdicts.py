"""Verdicts in plain words: tests that a constant and a random latent action model fail and an oracle passes."""

from dataclasses import dataclass

from lerobot_lara.evaluation.probe.bootstrap import Estimate
from lerobot_lara.evaluation.probe.measure import Measurement
from lerobot_lara.evaluation.probe.prediction import COPY, OWN, SHUFFLED

PASSED, FAILED, NOT_MEASURED = "passed", "failed", "not measured"
# Latents on a line have an effective rank of 1; a robot moves in more directions.
MIN_EFFECTIVE_RANK = 1.5
# A distractor may move latents by half of their own spread ...
MAX_DISPLACEMENT = 0.5
# ... and must leave three quarters of what they are good for.
MIN_KEPT = 0.75


@dataclass(frozen=True)
class Verdict:
    """One test of a model.

    Attributes:
        name: Of the test.
        outcome: `PASSED`, `FAILED` or `NOT_MEASURED`.
        finding: A sentence with the numbers.
    """

    name: str
    outcome: str
    finding: str


def judge(measurement: Measurement) -> list[Verdict]:
    """All verdicts on a model, always the same tests in the same order."""
    return [
        _carries_motion(measurement),
        _tells_actions(measurement),
        _no_collapse(measurement),
        _transfers(measurement),
        _robust(measurement),
    ]


def _carries_motion(measurement: Measurement) -> Verdict:
    name = "Latent actions carry motion"
    over_shuffled, over_copy = measurement.gain_over_shuffled, measurement.gain_over_copy
    if measurement.prediction is None or over_shuffled is None or over_copy is None:
        return Verdict(name, NOT_MEASURED, "This model predicts features, no frames")
    psnr = measurement.prediction.psnr
    return _verdict(
        name,
        over_shuffled.low > 0 and over_copy.low > 0,
        f"{psnr[OWN].value:.1f} dB with the pair's own latent, {psnr[SHUFFLED].value:.1f} dB with another pair's (gain "
        f"{_interval(over_shuffled, '.2f')} dB), {psnr[COPY].value:.1f} dB for copying o_t (gain "
        f"{_interval(over_copy, '.2f')} dB); both gains must be above 0",
    )


def _tells_actions(measurement: Measurement) -> Verdict:
    name = "They tell the action beyond what o_t tells"
    action = measurement.action
    if action is None:
        return Verdict(name, NOT_MEASURED, "The dataset has no actions that vary")
    return _verdict(
        name,
        action.increment.low > 0,
        f"The robot's actions are predicted with R² {action.together.value:.3f} from o_t and latent together and "
        f"{action.baseline.value:.3f} from o_t and the latent of no motion, an increment of "
        f"{_interval(action.increment, '.3f')}, which must be above 0",
    )


def _no_collapse(measurement: Measurement) -> Verdict:
    name = "They have not collapsed"
    statistics = measurement.statistics
    rank = (
        f"Latents vary in {statistics.effective_rank:.1f} effective directions of {statistics.dimensions} (at least "
        f"{MIN_EFFECTIVE_RANK:g} needed)"
    )
    if measurement.action is not None:
        retrieval, chance = measurement.action.retrieval, measurement.action.retrieval_chance
        what = "the action chunk predicted from a latent is nearest to its own"
    elif measurement.transfer is not None:
        retrieval, chance = measurement.transfer.retrieval, measurement.transfer.retrieval_chance
        what = "a latent applied to another episode's frame is nearest to the one recovered from the result"
    elif statistics.effective_rank < MIN_EFFECTIVE_RANK:
        return Verdict(name, FAILED, rank)
    else:
        return Verdict(
            name, NOT_MEASURED, f"{rank}; whether they mean anything takes actions or predicted frames"
        )
    return _verdict(
        name,
        statistics.effective_rank >= MIN_EFFECTIVE_RANK and retrieval.low > chance,
        f"{rank}, and {what} among {round(1 / chance)} in {_interval(retrieval, '.1%')} of the cases (chance is "
        f"{chance:.1%})",
    )


def _transfers(measurement: Measurement) -> Verdict:
    name = "They transfer to other scenes"
    transfer, gain = measurement.transfer, measurement.cycle_gain
    if transfer is None or gain is None:
        return Verdict(name, NOT_MEASURED, "This model predicts features, no frames")
    return _verdict(
        name,
        gain.low > 0,
        "Applied to a frame of another episode and recovered from the predicted frame, a latent has a centered cosine "
        f"of {transfer.cosine.value:.2f} with itself and {transfer.shuffled_cosine.value:.2f} with another one, a gain "
        f"of {_interval(gain, '.2f')}, which must be above 0",
    )


def _robust(measurement: Measurement) -> Verdict:
    name = "They ignore distractors"
    if measurement.latent_r2 is not None:
        use, clean = "R² of actions", measurement.latent_r2
        left = {distractor: result.r2 for distractor, result in measurement.robustness.items()}
    elif measurement.gain_over_copy is not None:
        use, clean = "prediction of the change", _explained(measurement.gain_over_copy)
        left = {
            distractor: None if result.psnr_gain is None else _explained(result.psnr_gain)
            for distractor, result in measurement.robustness.items()
        }
    else:
        return Verdict(name, NOT_MEASURED, "There are no actions, and this model predicts no frames")
    if clean.low <= 0:
        return Verdict(
            name,
            FAILED,
            f"There is nothing to keep: the latents' {use} is {_interval(clean, '.3f')} to begin with",
        )
    passed, findings = True, []
    for distractor, result in measurement.robustness.items():
        rest = left[distractor]
        assert rest is not None
        kept = rest.value / clean.value
        passed &= kept >= MIN_KEPT and result.displacement.value <= MAX_DISPLACEMENT
        findings.append(
            f"with a {distractor} they keep {max(kept, 0):.0%} of their {use} ({rest.value:.2f} of {clean.value:.2f}) "
            f"and move by {_interval(result.displacement, '.2f')} of their own spread"
        )
    text = "; ".join(findings)
    return _verdict(
        name,
        passed,
        f"{text[0].upper()}{text[1:]} (at least {MIN_KEPT:.0%} and at most {MAX_DISPLACEMENT:g} needed)",
    )


def _explained(gain: Estimate) -> Estimate:
    """Share of the squared change between the frames that is predicted, out of the gain over copying in dB."""
    return Estimate(1 - 10 ** (-gain.value / 10), 1 - 10 ** (-gain.draws / 10))


def _verdict(name: str, passed: bool, finding: str) -> Verdict:
    return Verdict(name, PASSED if passed else FAILED, finding)


def _interval(estimate: Estimate, form: str) -> str:
    value, low, high = (format(number, form) for number in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]".replace("-", "−")
