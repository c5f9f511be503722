"""The demo that is killed: run again, it finishes what it had begun, also to delete an earlier run."""


def test_a_killed_demo_is_finished(killed):
    assert [each for each in killed("demo_overwrite", 2) if not each["equal"]] == []
