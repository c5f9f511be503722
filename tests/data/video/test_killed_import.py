"""Imports that are killed: continued, they give what an undisturbed one gives, and leave nothing."""

import pytest


@pytest.mark.parametrize(("name", "moments"), [("import_new", 6), ("import_add", 2), ("import_overwrite", 2)])
def test_a_killed_import_continues_to_what_an_undisturbed_one_gives(killed, name, moments):
    found = killed(name, moments)
    assert [each for each in found if not each["equal"] or not each["killed"]] == []
    assert [each for each in found if each["lost"]] == [], "finished clips are decoded again"
    assert any(each["finished"] for each in found)
