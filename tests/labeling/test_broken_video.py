"""Videos that cannot be read: the others are labeled, the command says so, and a repaired video is labeled later."""

import json
import shutil

import pytest
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from support.kills import file_contents
from support.tiny_datasets import make_tiny_dataset
from support.videos import cut_off

from lerobot_lara.cli import main
from lerobot_lara.data.latent_labels.labels import LatentLabels

from .test_label import save_lam


@pytest.fixture(scope="module")
def lam(tmp_path_factory):
    return save_lam(tmp_path_factory.mktemp("lam"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Four episodes, each in a video of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LeRobotDatasetMetadata, "video_files_size_in_mb", property(lambda self: 1e-6))
        folder = tmp_path_factory.mktemp("data") / "whole"
        options = {"action": False, "state": False, "storage": "video"}
        return make_tiny_dataset(folder, num_episodes=4, num_frames=8, **options)


def run(lam, root, out, *flags):
    return main(["label", lam, str(root), f"--out={out}", "--shard-frames=8", *flags])


def times(out):
    return {path.name: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}


@pytest.mark.parametrize("flags", [(), ("--codebook-size=2",)])
def test_a_repaired_video_is_labeled_without_the_others(lam, whole, tmp_path, capsys, monkeypatch, flags):
    """A repaired video has another size, and yet the labels of the others are those of this dataset."""
    root, out = tmp_path / "data", tmp_path / "labels"
    shutil.copytree(whole, root)
    broken = sorted(root.rglob("*.mp4"))[2]
    cut_off(broken)
    assert run(lam, root, out, *flags) == 1
    [error] = json.loads((out / "errors.json").read_text())
    assert error["episode"] == 2 and str(broken) in error["error"]
    labels = LatentLabels(out)
    assert labels.valid.reshape(4, 8).sum(1).tolist() == [4, 4, 0, 4]
    assert labels.manifest.errors == [error] and (labels.manifest.valid, labels.manifest.invalid) == (12, 20)
    assert not labels.column("latent_action")[16:24].any()
    assert main(["label", "--check", str(out)]) == 1, "whole, but an episode could not be read"

    before = times(out)
    assert run(lam, root, out, *flags) == 1, "tried again"
    after = times(out)
    assert {name for name in before if before[name] != after[name]} >= {"file-002.parquet"}
    if not flags:  # with them, the codes of all files are fitted again
        assert [name for name in before if before[name] != after[name]] == ["file-002.parquet"]

    shutil.copyfile(whole / broken.relative_to(root), broken)
    with monkeypatch.context() as patch:
        patch.setattr("lerobot_lara.labeling.run.label_here", lambda *args, **kwargs: 1 / 0)
        assert run(lam, root, out, *flags) == 70
    assert main(["label", "--check", str(out)]) == 2, "not finished while it is mended"
    assert run(lam, root, out, *flags) == 0
    if not flags:
        assert {name: time for name, time in times(out).items() if name != "file-002.parquet"} == {
            name: time for name, time in after.items() if name != "file-002.parquet"
        }
    assert not (out / "errors.json").exists() and main(["label", "--check", str(out)]) == 0
    shutil.copytree(whole, tmp_path / "other" / "data")  # the folder's name is in the manifest
    assert run(lam, tmp_path / "other" / "data", tmp_path / "undisturbed", *flags) == 0
    assert file_contents(out) == file_contents(tmp_path / "undisturbed")
    capsys.readouterr()


def test_a_video_that_changes_while_the_labels_are_unfinished_is_labeled_again(
    lam, whole, tmp_path, monkeypatch
):
    root, out = tmp_path / "data", tmp_path / "labels"
    shutil.copytree(whole, root)
    with monkeypatch.context() as patch:
        patch.setattr("lerobot_lara.labeling.run.finish_labels", lambda folder: 1 / 0)
        assert run(lam, root, out) == 70
    before = times(out)
    assert len(before) == 4
    first, second = sorted(root.rglob("*.mp4"))[:2]
    shutil.copyfile(second, first)
    if first.stat().st_size == (whole / first.relative_to(root)).stat().st_size:
        first.write_bytes(first.read_bytes() + b"\0" * 8)
    assert run(lam, root, out) == 0
    after = times(out)
    assert [name for name in sorted(before) if before[name] != after[name]] == ["file-000.parquet"]
    assert run(lam, root, out) == 0 and times(out) == after


def test_finished_labels_of_other_frames_are_not_taken_for_these(lam, whole, tmp_path, capsys):
    root, out = tmp_path / "data", tmp_path / "labels"
    shutil.copytree(whole, root)
    assert run(lam, root, out) == 0
    video = min(root.rglob("*.mp4"))
    video.write_bytes(video.read_bytes() + b"\0" * 8)
    assert run(lam, root, out) == 2
    assert "holds other labels" in capsys.readouterr().err
    assert run(lam, root, out, "--overwrite") == 0


def test_a_missing_video_is_named_before_anything_is_labeled(lam, whole, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(whole, root)
    video = min(root.rglob("*.mp4"))
    video.unlink()
    assert run(lam, root, tmp_path / "labels") == 2
    assert f"{video} does not exist" in capsys.readouterr().err
    assert not (tmp_path / "labels").exists()


def test_a_broken_image_counts_as_a_broken_video_does(lam, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = make_tiny_dataset(tmp_path / "data", num_episodes=3, num_frames=8, action=False, state=False)
    file = min((root / "data").rglob("*.parquet"))
    table = pq.read_table(file)
    images = table["observation.image"].to_pylist()
    images[10]["bytes"] = images[10]["bytes"][:40]
    column = pa.array(images, type=table.schema.field("observation.image").type)
    number = table.schema.names.index("observation.image")
    pq.write_table(table.set_column(number, table.schema.field(number), column), file)
    assert run(lam, root, tmp_path / "labels") == 1
    labels = LatentLabels(tmp_path / "labels")
    assert labels.valid.reshape(3, 8).sum(1).tolist() == [4, 0, 4]
    assert "frame 2 of episode 1" in labels.manifest.errors[0]["error"]
