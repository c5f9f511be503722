import logging

import pytest

from lerobot_lara.batch.frame_gap import check_frame_gap


def test_counts_the_pairs_and_stays_quiet_when_every_episode_has_one(caplog):
    with caplog.at_level(logging.WARNING):
        assert check_frame_gap([5, 4], frame_gap=3) == 2 + 1
    assert not caplog.records


def test_warns_with_the_number_of_episodes_that_yield_no_pair(caplog):
    with caplog.at_level(logging.WARNING):
        # An episode as long as the gap has no partner for its first frame either.
        assert check_frame_gap([2, 3, 4, 10], frame_gap=3) == 1 + 7
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    message = record.getMessage()
    assert "`frame_gap` is 3: 2 of 4 episodes yield no pair" in message
    assert "shortest: 2 frames" in message
    assert "Lower frame_gap" in message


def test_raises_when_no_episode_yields_a_pair():
    with pytest.raises(
        ValueError, match=r"`frame_gap` is 8, .* longest of 2 episode\(s\) has 8 frame.* Set it to 7 or less"
    ):
        check_frame_gap([8, 3], frame_gap=8)


def test_asks_for_longer_episodes_when_no_gap_would_do():
    with pytest.raises(ValueError, match=r"has 1 frame\(s\)\. Use longer episodes"):
        check_frame_gap([1, 1], frame_gap=1)


@pytest.mark.parametrize("frame_gap", [0, -2])
def test_rejects_a_gap_below_one(frame_gap):
    with pytest.raises(ValueError, match=f"`frame_gap` is {frame_gap}.*at least 1"):
        check_frame_gap([8], frame_gap=frame_gap)


def test_rejects_an_empty_selection():
    with pytest.raises(ValueError, match="`frame_gap` is 1, but there is no episode"):
        check_frame_gap([], frame_gap=1)
