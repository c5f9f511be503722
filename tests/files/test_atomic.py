import errno

import pytest

from lerobot_lara.files.atomic import replaced_file, write_json, write_text


def test_a_file_is_the_old_one_or_the_new_one(tmp_path):
    path = tmp_path / "page"
    write_text(path, "old")
    with pytest.raises(OSError, match="space"), replaced_file(path) as partial:
        partial.write_text("ne")
        raise OSError(errno.ENOSPC, "no space")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["page"]
    (tmp_path / "page.partial").write_text("of a killed run")
    write_text(path, "new é")
    assert path.read_text(encoding="utf-8") == "new é"
    assert [each.name for each in tmp_path.iterdir()] == ["page"]


def test_it_is_on_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("os.fsync", lambda handle: calls.append((tmp_path / "page").exists()))
    write_text(tmp_path / "page", "new")
    assert calls == [False, True], "the file, then its folder"


def test_names_that_are_not_utf8_are_kept(tmp_path):
    write_json(tmp_path / "folder" / "names.json", {"name": "a\udcff"})
    assert (tmp_path / "folder" / "names.json").read_text() == '{\n  "name": "a\\udcff"\n}\n'
