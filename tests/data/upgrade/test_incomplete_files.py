"""Files that are not what they should be: pointers of Git LFS, clips that are too short, playlists, images by path."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.test_upgrade_dataset import CAMERAS, FPS, IMAGE_KEY, draw, edit_info, write_video

from lerobot_lara.data.upgrade import legacy_conversion, legacy_dataset
from lerobot_lara.data.upgrade.upgrade_dataset import upgrade_dataset
from lerobot_lara.data.upgrade.verify import UpgradeMismatchError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
CLIP = f"videos/chunk-000/{CAMERAS[1]}/episode_000001.mp4"


@pytest.mark.parametrize(
    "name",
    [
        "meta/info.json",
        "meta/episodes.jsonl",
        "meta/tasks.jsonl",
        "meta/episodes_stats.jsonl",
        "meta/modality.json",
        "data/chunk-000/episode_000000.parquet",
        "data/chunk-001/episode_000002.parquet",
        CLIP,
    ],
)
def test_a_pointer_of_git_lfs(name, legacy, tmp_path):
    source = legacy()
    (source / name).write_text(POINTER)
    with pytest.raises(ValueError, match=rf"{name}: Git LFS pointers .*run `git lfs pull`"):
        upgrade_dataset(source, tmp_path / "upgraded")
    assert not (tmp_path / "upgraded.partial").exists()


def test_many_pointers_of_git_lfs(legacy, tmp_path):
    source = legacy()
    for path in [*source.rglob("*.parquet"), *source.rglob("*.mp4")]:
        path.write_text(POINTER)
    with pytest.raises(ValueError, match=r"episode_000000\.parquet.* and 8 more: Git LFS pointers"):
        upgrade_dataset(source, tmp_path / "upgraded")


@pytest.mark.parametrize("verify", ["none", "all"])
def test_a_clip_that_is_shorter_than_its_table(verify, legacy, tmp_path):
    source = legacy()
    write_video(source / CLIP, [draw(1, frame, 1) for frame in range(7)], FPS)
    message = rf"episode 1, {CAMERAS[1]}: its video .*{CLIP} has 7 frames, but its data file has 8\. Download"
    with pytest.raises(ValueError, match=message):
        upgrade_dataset(source, tmp_path / "upgraded", verify=verify)
    assert not (tmp_path / "upgraded").exists()
    write_video(source / CLIP, [draw(1, frame, 1) for frame in range(8)], FPS)
    assert upgrade_dataset(source, tmp_path / "upgraded", verify="sample")  # goes on with the mended clip


def test_the_last_clip_is_read_even_without_verification(legacy, tmp_path, monkeypatch):
    source = legacy()
    monkeypatch.setattr(legacy_conversion, "clip_length", lambda path, fps: None)
    path = source / f"videos/chunk-001/{CAMERAS[0]}/episode_000002.mp4"
    write_video(path, [draw(2, frame, 0) for frame in range(3)], FPS)
    with pytest.raises(UpgradeMismatchError, match="LeRobot cannot read episode 2"):
        upgrade_dataset(source, tmp_path / "upgraded", verify="none")


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_lengths_of_clips(suffix, tmp_path):
    path = tmp_path / f"clip.{suffix}"
    write_video(path, [draw(0, frame, 0) for frame in range(7)], FPS)
    assert legacy_dataset.clip_length(path, FPS) == 7
    legacy_dataset.check_content([], [path])


PLAYLISTS = ("#EXTM3U\n", "ffconcat version 1.0\nfile '/etc/passwd'\n", "<MPD/>", "v=0\n", "", "not a video")


@pytest.mark.parametrize("content", PLAYLISTS)
def test_a_playlist_instead_of_a_video(content, legacy, tmp_path):
    source = legacy()
    (source / CLIP).write_text(content)
    with pytest.raises(ValueError, match=rf"{CLIP}: no video in MP4"):
        upgrade_dataset(source, tmp_path / "upgraded")


def test_a_damaged_video(legacy, tmp_path):
    source = legacy()
    (source / CLIP).write_bytes((source / CLIP).read_bytes()[:40])
    with pytest.raises(ValueError, match=rf"{CLIP} cannot be opened as a video"):
        upgrade_dataset(source, tmp_path / "upgraded")


def test_images_by_path(legacy, tmp_path):
    source = legacy("image")
    path = source / "data/chunk-000/episode_000001.parquet"
    table = pq.read_table(path, partitioning=None)
    cells = table[IMAGE_KEY].to_pylist()
    cells[3] = {"bytes": None, "path": "/etc/passwd"}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(table.drop_columns(IMAGE_KEY).append_column(IMAGE_KEY, pa.array(cells, kind)), path)
    with pytest.raises(ValueError, match=rf"episode 1, {IMAGE_KEY}: images are not embedded"):
        upgrade_dataset(source, tmp_path / "upgraded", verify="none")


def test_formats_of_images():
    """Pillow starts a program for this one."""
    with pytest.raises(OSError, match="cannot identify"):
        legacy_dataset.decode_image(
            {"bytes": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "path": None}
        )


@pytest.mark.parametrize(
    "cell", [None, [0.1, 0.2], 5, "path", {"path": "a.png"}, {"bytes": "text", "path": None}]
)
def test_cells_that_are_no_images(cell):
    with pytest.raises(ValueError, match="is not embedded in the data file"):
        legacy_dataset.decode_image(cell)


def test_a_column_of_numbers_that_is_described_as_images(legacy, tmp_path):
    source = legacy("image")
    features = json.loads((source / "meta/info.json").read_text())["features"]
    features["action"] |= {"dtype": "image", "shape": [32, 48, 3]}
    edit_info(source, features=features)
    with pytest.raises(ValueError, match=r"episode 0, action: .*not embedded"):
        upgrade_dataset(source, tmp_path / "upgraded")
