import math

import pytest

from lerobot_lara.evaluation.intervals import difference_p_value, student_interval, wilson_interval


# Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998), table I.
@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_matches_published_values(successes, episodes, low, high):
    assert wilson_interval(successes, episodes) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_is_symmetric_in_success_and_failure():
    low, high = wilson_interval(20, 20)
    assert (1 - high, 1 - low) == pytest.approx(wilson_interval(0, 20))


@pytest.mark.parametrize(("successes", "episodes", "named"), [(0, 0, "episodes"), (5, 4, "successes")])
def test_wilson_interval_refuses_impossible_counts(successes, episodes, named):
    with pytest.raises(ValueError, match=f"^`{named}` is"):
        wilson_interval(successes, episodes)


def test_p_value_of_equal_and_of_opposite_counts():
    assert difference_p_value((10, 20), (10, 20)) == pytest.approx(1.0)
    # Fisher's lady tasting tea, all eight cups right: 1/70 in one direction, as likely in the other.
    assert difference_p_value((4, 4), (0, 4)) == pytest.approx(2 / 70)


def test_student_interval():
    assert student_interval([1.0, 3.0, 2.0]) == pytest.approx((2.0, 2 - 2.4841, 2 + 2.4841), abs=1e-3)
    assert student_interval([1.0, 3.0], confidence=0.5) == pytest.approx((2.0, 1.0, 3.0), abs=1e-6)
    mean, low, high = student_interval([1.0])
    assert mean == 1.0 and math.isnan(low) and math.isnan(high)
