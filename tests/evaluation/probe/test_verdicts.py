"""Latent action models of known quality get the verdicts that they deserve."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from lerobot_lara.evaluation.probe.bootstrap import Estimate
from lerobot_lara.evaluation.probe.measure import Measurement
from lerobot_lara.evaluation.probe.prediction import COPY, OWN, SHUFFLED
from lerobot_lara.evaluation.probe.verdicts import FAILED, NOT_MEASURED, PASSED, judge

Measured = Callable[..., Measurement]
TESTS = ("carry motion", "tell the action", "not collapsed", "transfer", "ignore distractors")


def outcomes(measurement: Measurement) -> dict[str, str]:
    verdicts = judge(measurement)
    return {test: next(verdict.outcome for verdict in verdicts if test in verdict.name) for test in TESTS}


def test_an_oracle_passes_every_test(measured: Measured) -> None:
    assert outcomes(measured("Oracle")) == dict.fromkeys(TESTS, PASSED)


@pytest.mark.parametrize("name", ["Constant", "Random"])
def test_a_trivial_model_fails_every_test(name: str, measured: Measured) -> None:
    assert outcomes(measured(name)) == dict.fromkeys(TESTS, FAILED)


def test_a_description_of_the_first_frame_is_no_action(measured: Measured) -> None:
    measurement = measured("Describer")
    # It predicts the expert's actions well, which is why the increment is what counts.
    assert measurement.latent_r2 is not None and measurement.latent_r2.low > 0.2
    found = outcomes(measurement)
    assert found["tell the action"] == FAILED
    assert found["transfer"] == FAILED


def test_without_actions_all_else_is_still_judged(measured: Measured) -> None:
    found = outcomes(measured("Oracle", actions=False))
    assert found == dict.fromkeys(TESTS, PASSED) | {"tell the action": NOT_MEASURED}
    for name in ("Constant", "Random"):
        found = outcomes(measured(name, actions=False))
        assert found == dict.fromkeys(TESTS, FAILED) | {"tell the action": NOT_MEASURED}


def test_a_latent_that_follows_the_light_is_not_robust(measured: Measured) -> None:
    measurement = measured("LightMeter", actions=False)
    found = outcomes(measurement)
    assert found["ignore distractors"] == FAILED
    assert found["carry motion"] == PASSED
    assert measurement.robustness["brightness drift"].displacement.value > 0.5


def test_what_a_model_without_frames_cannot_show_is_not_measured(measured: Measured) -> None:
    found = outcomes(measured("FeaturePredictor"))
    assert found == dict.fromkeys(TESTS, PASSED) | {"carry motion": NOT_MEASURED, "transfer": NOT_MEASURED}
    found = outcomes(measured("FeaturePredictor", actions=False))
    assert set(found.values()) == {NOT_MEASURED}


def test_findings_state_the_numbers(measured: Measured) -> None:
    measurement = measured("Oracle")
    assert measurement.gain_over_copy is not None
    assert f"{measurement.gain_over_copy.value:.2f}" in judge(measurement)[0].finding


@pytest.mark.parametrize("baseline", [COPY, SHUFFLED])
def test_motion_takes_a_lead_over_both_baselines(baseline: str, measured: Measured) -> None:
    measurement = measured("Oracle")
    assert measurement.prediction is not None
    psnr = measurement.prediction.psnr
    level = replace(measurement.prediction, psnr=psnr | {baseline: psnr[OWN]})
    assert outcomes(replace(measurement, prediction=level))["carry motion"] == FAILED


def test_what_says_nothing_is_not_robust_however_still_it_stands(measured: Measured) -> None:
    measurement = measured("Oracle")
    assert measurement.action is not None
    noise = Estimate(0.01, np.linspace(-0.1, 0.1, 100))
    action = measurement.action
    action = replace(action, r2=action.r2 | {"ridge": action.r2["ridge"] | {"latent": noise}})
    robustness = {name: replace(result, r2=noise) for name, result in measurement.robustness.items()}
    found = outcomes(replace(measurement, action=action, robustness=robustness))
    assert found["ignore distractors"] == FAILED
