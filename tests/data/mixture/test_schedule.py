from collections import Counter

import pytest
from lerobot.datasets.sampler import EpisodeAwareSampler
from scipy.stats import chisquare

from lerobot_lara.data.mixture.schedule import DrawSchedule, sample_shares


def schedule(frames, weights, mode="share"):
    return DrawSchedule(frames, sample_shares(weights, frames, mode), [f"d{i}" for i in range(len(frames))])


@pytest.mark.parametrize(
    ("frames", "weights"), [([100, 7], [1, 1]), ([10, 90, 33], [0.5, 0.2, 0.3]), ([1], [4])]
)
def test_an_epoch_draws_every_frame_at_the_given_shares(frames, weights):
    draws = schedule(frames, weights)
    seen = Counter(draws[draw] for draw in range(len(draws)))
    assert set(seen) == {(dataset, frame) for dataset, count in enumerate(frames) for frame in range(count)}
    for dataset, count in enumerate(frames):
        repeats = [seen[dataset, frame] for frame in range(count)]
        assert max(repeats) - min(repeats) <= 1
        assert sum(repeats) / len(draws) == pytest.approx(weights[dataset] / sum(weights), abs=2 / len(draws))
        assert draws.draws[dataset] == sum(repeats)


def test_an_epoch_is_no_longer_than_needed():
    assert len(schedule([100, 100], [1, 1])) == 200
    assert len(schedule([300, 100], [3, 1])) == 400
    assert len(schedule([100, 100], [1, 3])) == 400


def test_repeated_frames_are_spread_evenly():
    draws = schedule([100, 10], [100, 15])
    extra = [frame for frame, count in Counter(draws[100 + i][1] for i in range(15)).items() if count == 2]
    assert sum(frame < 5 for frame in extra) in (2, 3)


def test_per_frame_weights_multiply_the_frames():
    assert sample_shares([1, 2], [300, 50], "per_frame") == pytest.approx([0.75, 0.25])
    assert sample_shares([1, 3], [300, 50], "share") == pytest.approx([0.25, 0.75])


@pytest.mark.parametrize("num_draws", [2000, 20000])
def test_lerobots_sampler_draws_in_proportion(num_draws):
    """Chi-square of the shuffled order against the weights, also within an epoch."""
    weights = [0.6, 0.3, 0.1]
    draws = schedule([5000, 900, 400], weights)
    sampler = EpisodeAwareSampler([0], [len(draws)], shuffle=True, seed=3)
    order = []
    while len(order) < num_draws:
        order += list(sampler)
    counts = Counter(draws[draw][0] for draw in order[:num_draws])
    expected = [num_draws * weight for weight in weights]
    assert chisquare([counts[i] for i in range(3)], expected).pvalue > 0.01
    assert chisquare([counts[i] for i in range(3)], [num_draws / 3] * 3).pvalue < 1e-6


def test_a_weight_too_low_for_its_frames_is_refused():
    with pytest.raises(ValueError, match=r"`weight` of entry 'd1'.*Raise the weight"):
        schedule([10, 1_000_000], [1, 1e-4])


@pytest.mark.parametrize("draw", [-1, 4])
def test_draws_outside_the_epoch(draw):
    with pytest.raises(IndexError):
        schedule([2, 2], [1, 1])[draw]
