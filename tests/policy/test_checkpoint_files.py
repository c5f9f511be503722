"""Files of a checkpoint: what is absent, what is unknown, and how they are downloaded."""

import pytest
from huggingface_hub import _CACHED_NO_EXIST
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from lerobot_lara.policy import checkpoint_files
from lerobot_lara.policy.checkpoint_files import Checkpoint


def test_a_folder(tmp_path):
    (tmp_path / "config.json").write_text('{"type": "lara"}')
    checkpoint = Checkpoint(str(tmp_path))
    assert checkpoint.config == {"type": "lara"} and checkpoint.file("lam/config.json") is None
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        _ = Checkpoint(str(tmp_path)).config
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"has no config\.json"):
        _ = Checkpoint(str(tmp_path)).config


def test_downloads_use_the_arguments_of_from_pretrained(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(
        checkpoint_files, "hf_hub_download", lambda *args, **kwargs: calls.append((args, kwargs)) or tmp_path
    )
    arguments = {
        "revision": "v2",
        "token": "secret",
        "cache_dir": "/cache",
        "config": object(),
        "strict": True,
    }
    Checkpoint.of("you/lara", arguments).file("config.json")
    options = {"revision": "v2", "token": "secret", "cache_dir": "/cache"}
    assert calls == [(("you/lara", "config.json"), options)]
    assert "secret" not in str(Checkpoint("you/lara"))


@pytest.mark.parametrize("known_to_be_absent", [True, False])
def test_offline_a_file_that_was_never_looked_for_is_not_absent(monkeypatch, known_to_be_absent):
    def offline(*args, **kwargs):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(checkpoint_files, "hf_hub_download", offline)
    cached = _CACHED_NO_EXIST if known_to_be_absent else None
    monkeypatch.setattr(checkpoint_files, "try_to_load_from_cache", lambda *args, **kwargs: cached)
    if known_to_be_absent:
        assert Checkpoint("you/lara").file("lam/config.json") is None
    else:
        with pytest.raises(ValueError, match=r"lam/config\.json of that Hub id is not in the cache.*online"):
            Checkpoint("you/lara").file("lam/config.json")


def test_a_file_that_the_hub_lacks_is_absent(monkeypatch):
    def absent(*args, **kwargs):
        raise EntryNotFoundError("404")

    monkeypatch.setattr(checkpoint_files, "hf_hub_download", absent)
    assert Checkpoint("you/lara").file("lam/config.json") is None
