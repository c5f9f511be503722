"""Datasets whose metadata or links point elsewhere: nothing outside is read, and nothing outside is written."""

import json
import os
import shutil

import pytest
from data.test_upgrade_dataset import CAMERAS, IMAGE_KEY, edit_info

from lerobot_lara.data.upgrade import legacy_dataset
from lerobot_lara.data.upgrade.upgrade_dataset import upgrade_dataset
from lerobot_lara.files import links

SECRET = "a file of the system"


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def rename_feature(source, old, new):
    features = json.loads((source / "meta/info.json").read_text())["features"]
    edit_info(source, features={new if key == old else key: value for key, value in features.items()})


UNSAFE_KEYS = (
    "../../../../escaped",
    "../escaped",
    "a/../../../../escaped",
    "/tmp/escaped",
    "..",
    ".",
    "...",
    "",
    " ",
    "a/b",
    "..\\..\\escaped",
    "C:escaped",
    "c:\\escaped",
    "escaped\0",
    "escaped\n",
    "\ud800",
    "x" * 300,
)


@pytest.mark.parametrize("old", [CAMERAS[0], "action"])
@pytest.mark.parametrize("key", UNSAFE_KEYS)
def test_keys_that_are_no_names(key, old, legacy, tmp_path):
    source = legacy()
    rename_feature(source, old, key)
    (tmp_path / "out" / "deep").mkdir(parents=True)  # the lock of the output is there for a moment
    before = names(tmp_path)
    with pytest.raises(ValueError, match=r"meta/info\.json: `features` is .*plain names.*Correct it"):
        upgrade_dataset(source, tmp_path / "out" / "deep" / "upgraded")
    assert names(tmp_path) == before


@pytest.mark.parametrize("key", ["*", "camera?", "[ab]", "it's"])
def test_camera_keys_that_match_other_folders(key, legacy, tmp_path):
    source = legacy()
    rename_feature(source, CAMERAS[0], key)
    with pytest.raises(ValueError, match="camera keys without"):
        upgrade_dataset(source, tmp_path / "upgraded")


UNSAFE_TEMPLATES = (
    "../{video_key}/{episode_index}",
    "{video_key}/../../{episode_index}",
    "/etc/{video_key}/{episode_index}",
    "//{video_key}/{episode_index}",
    "C:/{video_key}/{episode_index}",
    "videos\\..\\{video_key}\\{episode_index}",
    "videos/\0{video_key}/{episode_index}",
    "videos/\n{video_key}/{episode_index}",
    "{video_key}/{episode_index:01000000000d}",
    "{video_key}/{episode_index:1000000000}",
    "{video_key:>1000000000}/{episode_index}",
    "{video_key}/{episode_index:{episode_index}}",
    "{video_key}/{episode_index.__class__}",
    "{video_key[0]}/{episode_index}",
    "{video_key!r}/{episode_index}",
    "{video_key}/{episode_index:x}",
    "{video_key}/{}/{episode_index}",
    "{video_key}/{episode_index}/{other}",
    "{video_key}/{episode_index",
    "{video_key}/" + "x" * 300 + "{episode_index}",
    "{video_key}",
    "",
    None,
    7,
    ["videos/{video_key}/{episode_index}"],
)


@pytest.mark.parametrize("field", ["video_path", "data_path"])
@pytest.mark.parametrize("template", UNSAFE_TEMPLATES)
def test_templates_that_lead_elsewhere(field, template, legacy, tmp_path):
    source = legacy()
    edit_info(source, **{field: template})
    before = names(tmp_path)
    with pytest.raises(ValueError, match=rf"info\.json: `{field}` is .*must be a template of .*inside the"):
        upgrade_dataset(source, tmp_path / "upgraded")
    assert names(tmp_path) == before


def test_several_cameras_cannot_share_videos(legacy, tmp_path):
    source = legacy()
    edit_info(source, video_path="videos/{episode_index}.mp4")
    with pytest.raises(ValueError, match=r"with \{episode_index\} and \{video_key\}"):
        upgrade_dataset(source, tmp_path / "upgraded")


@pytest.mark.parametrize(
    "name",
    [
        "meta/info.json",
        "meta/episodes.jsonl",
        "meta/tasks.jsonl",
        "meta/episodes_stats.jsonl",
        "data/chunk-000/episode_000001.parquet",
        f"videos/chunk-000/{CAMERAS[1]}/episode_000001.mp4",
        "data/chunk-000",
        "videos",
        "meta",
    ],
)
def test_links_that_lead_out_of_the_dataset(name, legacy, tmp_path):
    source, outside = legacy(), tmp_path / "outside"
    (source / name).rename(outside)
    (source / name).symlink_to(outside)
    with pytest.raises(ValueError, match=r"leads to .*outside of the dataset .*links must stay inside"):
        upgrade_dataset(source, tmp_path / "upgraded")
    assert not (tmp_path / "upgraded.partial").exists()


def test_other_metadata_that_is_a_link(legacy, tmp_path, caplog):
    source, secret = legacy("image"), tmp_path / "secret"
    secret.write_text(SECRET)
    (source / "meta/x.json").symlink_to(secret)
    (source / "meta/relative.json").symlink_to("../../secret")
    (source / "meta/inside.json").symlink_to("tasks.jsonl")
    (source / "meta/broken.json").symlink_to("nowhere")
    (source / "meta/loop.json").symlink_to("loop.json")
    root = upgrade_dataset(source, tmp_path / "upgraded", verify="none")
    assert (root / "meta/inside.json").read_text() == (source / "meta/tasks.jsonl").read_text()
    copied = {path.name for path in (root / "meta").iterdir()}
    assert not copied & {"x.json", "relative.json", "broken.json", "loop.json"}
    assert all(f"{source / 'meta' / name} leads to" in caplog.text for name in ("x.json", "relative.json"))
    assert "It is left out" in caplog.text
    assert not any(SECRET.encode() in path.read_bytes() for path in root.rglob("*") if path.is_file())


def test_other_metadata_does_not_replace_what_was_written(legacy, tmp_path):
    source = legacy("image")
    for name in ("tasks.parquet", "upgrade.json", "stats.json"):
        (source / "meta" / name).write_text(SECRET)
    root = upgrade_dataset(source, tmp_path / "upgraded", verify="sample")
    assert not any(SECRET.encode() in path.read_bytes() for path in root.rglob("*") if path.is_file())


def test_links_in_an_unfinished_output(legacy, tmp_path, monkeypatch):
    """Whoever can write there could otherwise choose another place."""
    source, elsewhere = legacy("image"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr("lerobot_lara.data.upgrade.legacy_conversion._join_data", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            upgrade_dataset(source, tmp_path / "upgraded")
    (tmp_path / "upgraded.partial/dataset").mkdir(exist_ok=True)
    (tmp_path / "upgraded.partial/dataset/data").symlink_to(elsewhere)
    with pytest.raises(ValueError, match="outside of the output"):
        upgrade_dataset(source, tmp_path / "upgraded")
    assert not list(elsewhere.iterdir())


def test_a_folder_that_would_end_a_path_in_the_list_of_ffmpeg(prepared, tmp_path):
    source = shutil.copytree(prepared["video"], tmp_path / "it's")
    with pytest.raises(ValueError, match="has an apostrophe or a line break"):
        upgrade_dataset(source, tmp_path / "upgraded")


def test_the_cache_of_the_hub_consists_of_links(prepared, tmp_path):
    repository = tmp_path / "datasets--user--name"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    for number, path in enumerate(path for path in prepared["image"].rglob("*") if path.is_file()):
        link = snapshot / path.relative_to(prepared["image"])
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blobs / str(number))
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    assert legacy_dataset.open_legacy_dataset(snapshot).image_keys == [IMAGE_KEY]
    with pytest.raises(ValueError, match="links must stay inside"):
        legacy_dataset.open_legacy_dataset(repository.rename(tmp_path / "other") / "snapshots" / "0123")


@pytest.mark.parametrize("path", ["../outside", "a/../../outside", "/etc/passwd"])
def test_what_is_written_lies_inside(path, tmp_path):
    assert links.inside(tmp_path / "a/b", tmp_path) == tmp_path / "a/b"
    with pytest.raises(ValueError, match="nothing is written there"):
        links.inside(tmp_path / path, tmp_path)
