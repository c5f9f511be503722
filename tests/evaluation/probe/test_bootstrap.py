import numpy as np
import pytest

from lerobot_lara.evaluation.probe.bootstrap import EpisodeBootstrap


def test_interval_of_a_mean_is_the_textbook_one() -> None:
    values = np.random.default_rng(0).standard_normal(400)
    estimate = EpisodeBootstrap(np.arange(400), seed=0).mean(values)
    half_width = 1.96 * values.std() / 20
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(values.mean() - half_width, abs=0.02)
    assert estimate.high == pytest.approx(values.mean() + half_width, abs=0.02)


def test_repeated_pairs_of_an_episode_do_not_narrow_the_interval() -> None:
    values = np.random.default_rng(0).standard_normal(20)
    once = EpisodeBootstrap(np.arange(20), seed=0).mean(values)
    often = EpisodeBootstrap(np.repeat(np.arange(20), 50), seed=0).mean(np.repeat(values, 50))
    assert (often.low, often.high) == pytest.approx((once.low, once.high))


def test_differences_are_paired() -> None:
    episodes = np.repeat(np.arange(12), 3)
    values = np.random.default_rng(0).standard_normal(36)
    first = EpisodeBootstrap(episodes, seed=0).mean(values)
    second = EpisodeBootstrap(episodes, seed=0).mean(values + 0.1)
    difference = second - first
    assert (difference.low, difference.high) == pytest.approx((0.1, 0.1))


def test_psnr_is_that_of_the_mean_error() -> None:
    estimate = EpisodeBootstrap(np.arange(4), seed=0).psnr(np.array([0.01, 0.01, 0.0, 0.02]))
    assert estimate.value == pytest.approx(20.0)


def test_only_measured_pairs_count() -> None:
    values, measured = np.array([1.0, 3.0, 99.0]), np.array([True, True, False])
    assert EpisodeBootstrap(np.arange(3), seed=0).mean(values, measured).value == 2


def test_json_has_no_infinity() -> None:
    infinite = EpisodeBootstrap(np.arange(4), seed=0)(lambda n: n * np.inf, np.ones(4))
    assert infinite.json() == {"value": None, "low": None, "high": None}
    assert not infinite.finite
