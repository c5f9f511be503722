"""Verdicts in plain words: tests that a constant and a random latent action model fail and an oracle passes."""

from dataclasses import dataclass

from lerobot_lara.evaluation.probe.action_probe import NO_MOTION
from lerobot_lara.evaluation.probe.bootstrap import Estimate
from lerobot_lara.evaluation.probe.measure import Measurement
from lerobot_lara.evaluation.probe.prediction import COPY, OWN, SHUFFLED

PASSED, FAILED, NOT_MEASURED = "passed", "failed", "not measured"
# Names of the tests, as the report and README.md list them.
CARRY_MOTION = "Latent actions carry motion"
INFORM_ABOUT_ACTIONS = "Latent actions inform about robot actions beyond o_t"
NOT_COLLAPSED = "Latent actions have not collapsed"
TRANSFER = "Latent actions transfer to other scenes"
IGNORE_DISTRACTORS = "Latent actions ignore distractors"
# Latents on a line have an effective rank of 1; a robot moves in more directions.
MIN_EFFECTIVE_RANK = 1.5
# A distractor may move latents by half of their own spread ...
MAX_DISPLACEMENT = 0.5
# ... and must leave three quarters of their usefulness.
MIN_KEPT = 0.75


@dataclass(frozen=True)
class Verdict:
    """Outcome of one test.

    Attributes:
        name: Name of the test.
        outcome: `PASSED`, `FAILED` or `NOT_MEASURED`.
        finding: A sentence with the numbers, without a full stop.
    """

    name: str
    outcome: str
    finding: str


def judge(measurement: Measurement) -> list[Verdict]:
    """Applies all tests to a model, always the same ones in the same order."""
    return [
        _carry_motion(measurement),
        _inform_about_actions(measurement),
        _not_collapsed(measurement),
        _transfer(measurement),
        _ignore_distractors(measurement),
    ]


def _carry_motion(measurement: Measurement) -> Verdict:
    over_shuffled, over_copy = measurement.gain_over_shuffled, measurement.gain_over_copy
    if measurement.prediction is None or over_shuffled is None or over_copy is None:
        return _no_frames(CARRY_MOTION)
    psnr = measurement.prediction.psnr
    return _verdict(
        CARRY_MOTION,
        over_shuffled.low > 0 and over_copy.low > 0,
        f"The PSNR is {psnr[OWN].value:.1f} dB with the pair's own latent, {psnr[SHUFFLED].value:.1f} dB with another "
        f"pair's (gain {_interval(over_shuffled, '.2f')} dB) and {psnr[COPY].value:.1f} dB for copying o_t (gain "
        f"{_interval(over_copy, '.2f')} dB); both gains must be above 0",
    )


def _inform_about_actions(measurement: Measurement) -> Verdict:
    action = measurement.action
    if action is None:
        return Verdict(INFORM_ABOUT_ACTIONS, NOT_MEASURED, "The dataset has no actions that vary")
    known = (
        "from o_t, or from o_t and the latent of no motion"
        if NO_MOTION in action.mse["ridge"]
        else "from o_t"
    )
    return _verdict(
        INFORM_ABOUT_ACTIONS,
        action.increment.low > 0,
        f"The robot's actions are predicted with an R² of {action.together.value:.3f} from o_t and the latent, and of "
        f"{action.baseline.value:.3f} without motion ({known}); the increment of "
        f"{_interval(action.increment, '.3f')} must be above 0",
    )


def _not_collapsed(measurement: Measurement) -> Verdict:
    statistics = measurement.statistics
    rank = (
        f"The effective rank is {statistics.effective_rank:.1f} of {statistics.dimensions} (at least "
        f"{MIN_EFFECTIVE_RANK:g} is needed)"
    )
    if measurement.action is not None:
        retrieval, chance = measurement.action.retrieval, measurement.action.retrieval_chance
        what = "the action chunk predicted from a latent is nearest to the true one"
    elif measurement.transfer is not None:
        retrieval, chance = measurement.transfer.retrieval, measurement.transfer.retrieval_chance
        what = "the latent recovered from another episode's frame is nearest to the one that was applied"
    elif statistics.effective_rank < MIN_EFFECTIVE_RANK:
        return Verdict(NOT_COLLAPSED, FAILED, rank)
    else:
        return Verdict(
            NOT_COLLAPSED,
            NOT_MEASURED,
            f"{rank}; testing whether they carry information needs actions or predicted frames",
        )
    return _verdict(
        NOT_COLLAPSED,
        statistics.effective_rank >= MIN_EFFECTIVE_RANK and retrieval.low > chance,
        f"{rank}, and {what} among {round(1 / chance)} in {_interval(retrieval, '.1%')} of the cases (chance is "
        f"{chance:.1%})",
    )


def _transfer(measurement: Measurement) -> Verdict:
    transfer, gain = measurement.transfer, measurement.cycle_gain
    if transfer is None or gain is None:
        return _no_frames(TRANSFER)
    return _verdict(
        TRANSFER,
        gain.low > 0,
        "When a latent is applied to a frame of another episode and recovered from the predicted frame, its centered "
        f"cosine with the applied latent is {transfer.cosine.value:.2f}, and {transfer.shuffled_cosine.value:.2f} with "
        f"another latent; the gain of {_interval(gain, '.2f')} must be above 0",
    )


def _ignore_distractors(measurement: Measurement) -> Verdict:
    if not measurement.robustness:
        return Verdict(IGNORE_DISTRACTORS, NOT_MEASURED, "Labels are of the frames as they are")
    if measurement.latent_r2 is not None:
        use, clean = "R² of the actions", measurement.latent_r2
        left = {distractor: result.r2 for distractor, result in measurement.robustness.items()}
    elif measurement.gain_over_copy is not None:
        use, clean = "share of the change that is predicted", _explained(measurement.gain_over_copy)
        left = {
            distractor: None if result.psnr_gain is None else _explained(result.psnr_gain)
            for distractor, result in measurement.robustness.items()
        }
    else:
        return Verdict(IGNORE_DISTRACTORS, NOT_MEASURED, "There are no actions, and no frames are predicted")
    if clean.low <= 0:
        return Verdict(
            IGNORE_DISTRACTORS,
            FAILED,
            f"There is nothing to keep: even without a distractor, the latents' {use} is {_interval(clean, '.3f')}",
        )
    passed, findings = True, []
    for distractor, result in measurement.robustness.items():
        rest = left[distractor]
        assert rest is not None
        kept = rest.value / clean.value
        passed &= kept >= MIN_KEPT and result.displacement.value <= MAX_DISPLACEMENT
        findings.append(
            f"with a {distractor}, latents keep {max(kept, 0):.0%} of their {use} ({rest.value:.2f} of "
            f"{clean.value:.2f}) and move by {_interval(result.displacement, '.2f')} of their own spread"
        )
    text = "; ".join(findings)
    return _verdict(
        IGNORE_DISTRACTORS,
        passed,
        f"{text[0].upper()}{text[1:]} (at least {MIN_KEPT:.0%} and at most {MAX_DISPLACEMENT:g} are needed)",
    )


def _explained(gain: Estimate) -> Estimate:
    """Share of the squared change between the frames that is predicted, from the PSNR gain over copying in dB."""
    return Estimate(1 - 10 ** (-gain.value / 10), 1 - 10 ** (-gain.draws / 10))


def _no_frames(name: str) -> Verdict:
    return Verdict(
        name,
        NOT_MEASURED,
        "No frames are predicted: the model predicts features, or only its labels are known",
    )


def _verdict(name: str, passed: bool, finding: str) -> Verdict:
    return Verdict(name, PASSED if passed else FAILED, finding)


def _interval(estimate: Estimate, form: str) -> str:
    value, low, high = (format(number, form) for number in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]".replace("-", "−")
