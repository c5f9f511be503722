"""Latent action models of known quality get the verdicts that they deserve."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lerobot_lara.evaluation.probe import verdicts
from lerobot_lara.evaluation.probe.bootstrap import Estimate
from lerobot_lara.evaluation.probe.measure import Measurement
from lerobot_lara.evaluation.probe.prediction import COPY, OWN, SHUFFLED
from lerobot_lara.evaluation.probe.verdicts import (
    CARRY_MOTION,
    FAILED,
    IGNORE_DISTRACTORS,
    INFORM_ABOUT_ACTIONS,
    NOT_COLLAPSED,
    NOT_MEASURED,
    PASSED,
    TRANSFER,
    judge,
)

Measured = Callable[..., Measurement]
TESTS = (CARRY_MOTION, INFORM_ABOUT_ACTIONS, NOT_COLLAPSED, TRANSFER, IGNORE_DISTRACTORS)
GUIDE = Path(verdicts.__file__).with_name("README.md")


def outcomes(measurement: Measurement) -> dict[str, str]:
    return {verdict.name: verdict.outcome for verdict in judge(measurement)}


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
    assert found[INFORM_ABOUT_ACTIONS] == FAILED
    assert found[TRANSFER] == FAILED


def test_without_actions_all_else_is_still_judged(measured: Measured) -> None:
    found = outcomes(measured("Oracle", actions=False))
    assert found == dict.fromkeys(TESTS, PASSED) | {INFORM_ABOUT_ACTIONS: NOT_MEASURED}
    for name in ("Constant", "Random"):
        found = outcomes(measured(name, actions=False))
        assert found == dict.fromkeys(TESTS, FAILED) | {INFORM_ABOUT_ACTIONS: NOT_MEASURED}


def test_a_latent_that_follows_the_light_is_not_robust(measured: Measured) -> None:
    measurement = measured("LightMeter", actions=False)
    found = outcomes(measurement)
    assert found[IGNORE_DISTRACTORS] == FAILED
    assert found[CARRY_MOTION] == PASSED
    assert measurement.robustness["brightness drift"].displacement.value > 0.5


def test_what_a_model_without_frames_cannot_show_is_not_measured(measured: Measured) -> None:
    found = outcomes(measured("FeaturePredictor"))
    assert found == dict.fromkeys(TESTS, PASSED) | {CARRY_MOTION: NOT_MEASURED, TRANSFER: NOT_MEASURED}
    found = outcomes(measured("FeaturePredictor", actions=False))
    assert set(found.values()) == {NOT_MEASURED}


def test_the_guide_lists_the_verdicts_by_name() -> None:
    rows = [
        line.split("|")[1].strip() for line in GUIDE.read_text().splitlines() if line.startswith("| Latent")
    ]
    assert rows == list(TESTS)


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
    assert outcomes(replace(measurement, prediction=level))[CARRY_MOTION] == FAILED


def test_what_says_nothing_is_not_robust_however_still_it_stands(measured: Measured) -> None:
    measurement = measured("Oracle")
    assert measurement.action is not None
    noise = Estimate(0.01, np.linspace(-0.1, 0.1, 100))
    action = measurement.action
    action = replace(action, r2=action.r2 | {"ridge": action.r2["ridge"] | {"latent": noise}})
    robustness = {name: replace(result, r2=noise) for name, result in measurement.robustness.items()}
    found = outcomes(replace(measurement, action=action, robustness=robustness))
    assert found[IGNORE_DISTRACTORS] == FAILED
