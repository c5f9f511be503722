"""Upgrades that are killed: repeated, they give what an undisturbed one gives, and leave nothing."""

from pathlib import Path

import pytest
from data.test_upgrade_dataset import make_legacy

from lerobot_lara.data.upgrade import upgrade_dataset as module
from lerobot_lara.data.upgrade.upgrade_dataset import upgrade_dataset


@pytest.mark.slow
def test_killed_at_many_moments(killed):
    found = killed("upgrade", 8)
    assert [each for each in found if not each["equal"] or not each["killed"]] == []
    assert [each for each in found if each["lost"]] == [], "finished stages are repeated"


def test_a_staging_folder_that_was_hardly_begun(tmp_path):
    source = make_legacy(tmp_path / "source", "v2.1", storage="image")
    staging = tmp_path / "upgraded.partial"
    staging.mkdir()
    (staging / "upgrade.json.partial").write_text('{"half')
    root = upgrade_dataset(source, tmp_path / "upgraded", verify="none")
    assert not staging.exists()
    staging.mkdir()
    assert upgrade_dataset(source, root, verify="none") == root and not staging.exists()


def test_the_record_is_removed_last(tmp_path, monkeypatch):
    """Otherwise a folder would be left that nobody knows."""
    source = make_legacy(tmp_path / "source", "v2.1", storage="image")
    staging, removed = tmp_path / "upgraded.partial", []
    rmtree = module.shutil.rmtree

    def watched(path, *args, **kwargs):
        if Path(path).parent == staging:
            removed.append(path)
            assert (staging / "upgrade.json").is_file()
        return rmtree(path, *args, **kwargs)

    monkeypatch.setattr(module.shutil, "rmtree", watched)
    upgrade_dataset(source, tmp_path / "upgraded", verify="none")
    assert removed and not staging.exists()
