"""A report that is killed while it is written: repeated, it is whole, and the earlier one is not mixed with it."""


def test_a_killed_report_is_written_again(killed):
    assert [each for each in killed("probe_again", 2) if not each["equal"]] == []
