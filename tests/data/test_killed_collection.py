"""Recordings that are killed: continued, they give what an undisturbed one gives, and record nothing twice."""

import pytest


@pytest.mark.parametrize("name", ["collect_new", "collect_overwrite"])
def test_a_killed_recording_continues_to_what_an_undisturbed_one_gives(killed, name):
    found = killed(name, 4, timed=1)
    assert [each for each in found if not each["equal"]] == []
    assert [each for each in found if each["lost"]] == []
    assert any(each["finished"] for each in found)
