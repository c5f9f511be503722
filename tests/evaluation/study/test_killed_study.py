"""Studies that are killed with their jobs: run again, they keep what was finished, also steps of a training."""

import pytest


def test_a_killed_study_keeps_jobs_and_checkpoints(killed):
    found = killed("study", 6, timed=1)
    assert [each for each in found if not each["equal"]] == []
    assert [each for each in found if each["lost"]] == []
    assert any("step 2" in each["finished"] and "step 2" not in each["done"] for each in found)


@pytest.mark.e2e
def test_a_killed_training_ends_with_the_weights_of_an_undisturbed_one(killed):
    found = killed("train", 2)
    assert [each for each in found if not each["equal"]] == []
    assert [each for each in found if each["lost"]] == []
