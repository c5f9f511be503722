"""The folder of labels: what may be replaced, what is a user's own, and what an interrupted command leaves."""

import json
import shutil
from itertools import count
from pathlib import Path

import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from support.kills import file_contents
from support.tiny_datasets import REPO_ID, make_tiny_dataset

from lerobot_lara.cli import main
from lerobot_lara.data.latent_labels.labels import LatentLabels
from lerobot_lara.data.latent_labels.manifest import LabelManifest
from lerobot_lara.files.lock import only_run
from lerobot_lara.labeling import run as module
from lerobot_lara.labeling.plan import LabelOptions
from lerobot_lara.labeling.run import label

from .test_label import save_lam


@pytest.fixture(scope="module")
def lam(tmp_path_factory):
    return save_lam(tmp_path_factory.mktemp("lam"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "images"
    return make_tiny_dataset(folder, num_episodes=4, num_frames=8, action=False, state=False)


def run(lam, root, out, *, overwrite=False, **options):
    options = LabelOptions(**{"shard_frames": 8} | options)
    return label(lam, str(root), out, options=options, overwrite=overwrite)[0]


def times(out):
    return {path.name: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}


def interrupted(monkeypatch, shards, *args, **options):
    """A run that is interrupted once it has written some shards."""
    write, written = module.label_here, count()

    def stop(folder, wanted, **kwargs):
        write(folder, wanted[:shards], **kwargs)
        next(written)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "label_here", stop)
        with pytest.raises(KeyboardInterrupt):
            run(*args, **options)


def test_a_dataset_is_never_taken_for_labels(lam, tmp_path):
    """A dataset of images has just the folders `meta` and `data`, as labels have."""
    root = make_tiny_dataset(tmp_path / "data", num_frames=8)
    shutil.rmtree(root / "images")  # what LeRobot's recorder leaves, and no download has
    before = file_contents(root)
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="is no folder of labels"):
            run(lam, root, root, overwrite=overwrite)
    assert file_contents(root) == before


@pytest.mark.parametrize(
    "file", ["data/mine.csv", "logs/mine.log", "data/chunk-000/file-000.parquet", "plan.txt"]
)
def test_a_folder_of_someone_elses_files_is_never_emptied(lam, root, tmp_path, file):
    path = tmp_path / "project" / file
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"`out` is .*project, which holds"):
            run(lam, root, tmp_path / "project", overwrite=overwrite)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("file", ["data/notes.txt", "meta/notes.txt", "data/chunk-000/notes.parquet"])
def test_files_beside_the_labels_are_kept_too(lam, root, tmp_path, file):
    out = tmp_path / "labels"
    run(lam, root, out)
    (out / file).write_text("mine")
    with pytest.raises(ValueError, match=f"holds {file}"):
        run(lam, root, out, overwrite=True, dtype="float32")
    assert (out / file).read_text() == "mine" and LabelManifest.read(out).dtype == "float16"


def test_finished_files_are_not_written_again(lam, root, tmp_path, monkeypatch):
    out = tmp_path / "labels"
    interrupted(monkeypatch, 2, lam, root, out)
    before = times(out)
    assert len(before) == 2
    run(lam, root, out)
    after = times(out)
    assert len(after) == 4 and {name: after[name] for name in before} == before
    run(lam, root, out)
    assert times(out) == after, "a third run does nothing"
    run(lam, root, tmp_path / "undisturbed")
    assert file_contents(out) == file_contents(tmp_path / "undisturbed")


@pytest.mark.parametrize("old", [{}, {"dtype": "float32", "codebook_size": 2}, {"shard_frames": 1}])
def test_an_interrupted_replacement_continues_without_the_flag(lam, root, tmp_path, monkeypatch, old):
    out = tmp_path / "labels"
    run(lam, root, out, **old)
    interrupted(monkeypatch, 1, lam, root, out, overwrite=True, shard_frames=16)
    with pytest.raises(ValueError, match="holds no finished latent labels"):
        LatentLabels(out)
    run(lam, root, out, shard_frames=16)
    run(lam, root, tmp_path / "undisturbed", shard_frames=16)
    assert file_contents(out) == file_contents(tmp_path / "undisturbed")


OTHER = {"shard_frames": 1, "codebook_size": 2, "dtype": "float32"}


@pytest.mark.parametrize("old", [{}, OTHER])
def test_a_replacement_that_fails_while_it_deletes_is_continued(lam, root, tmp_path, monkeypatch, old):
    out = tmp_path / "labels"
    run(lam, root, tmp_path / "undisturbed")
    for step in (0, 1, 4):
        run(lam, root, out, overwrite=True, **old)
        calls = count()

        def stop(path, *args, step=step, calls=calls, remove=Path.unlink, **kwargs):
            if path.suffix != ".lock" and next(calls) == step:
                raise PermissionError("busy")
            remove(path, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", stop)
            with pytest.raises(PermissionError):
                run(lam, root, out, overwrite=True)
        run(lam, root, out)
        assert file_contents(out) == file_contents(tmp_path / "undisturbed")


def test_labels_stay_until_the_plan_of_others_is_written(lam, root, tmp_path, monkeypatch):
    out = tmp_path / "labels"
    run(lam, root, out)
    before = file_contents(out)
    monkeypatch.setattr("lerobot_lara.labeling.plan.write_json", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(lam, root, out, overwrite=True, **OTHER)
    assert file_contents(out) == before and len(LatentLabels(out)) == 32


def test_temporary_files_of_a_killed_run_do_not_stand_in_the_way(lam, root, tmp_path):
    out = tmp_path / "labels"
    out.mkdir()
    (out / "plan.json.partial").write_text("{")
    run(lam, root, out)
    run(lam, root, tmp_path / "undisturbed")
    assert file_contents(out) == file_contents(tmp_path / "undisturbed")
    (out / "errors.json.partial").write_text("[")
    run(lam, root, out, overwrite=True)
    assert file_contents(out) == file_contents(tmp_path / "undisturbed")


@pytest.mark.parametrize("file", ["plan.json", "meta/latent_labels.json"])
@pytest.mark.parametrize("text", ["{", "{}"])
def test_labels_that_cannot_be_read_are_named_and_can_be_replaced(lam, root, tmp_path, file, text):
    out = tmp_path / "labels"
    run(lam, root, out)
    (out / file).write_text(text)
    with pytest.raises(ValueError, match=file) as error:
        run(lam, root, out)
    assert "--overwrite" in str(error.value) and "download the dataset" not in str(error.value)
    run(lam, root, out, overwrite=True)
    assert LatentLabels(out).manifest.valid == 16


def test_a_damaged_file_of_an_unfinished_run_is_made_again(lam, root, tmp_path, monkeypatch):
    out = tmp_path / "labels"
    interrupted(monkeypatch, 3, lam, root, out)
    file = out / "data/chunk-000/file-001.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    run(lam, root, out)
    run(lam, root, tmp_path / "undisturbed")
    assert file_contents(out) == file_contents(tmp_path / "undisturbed")


def test_two_runs_cannot_write_one_folder(lam, root, tmp_path):
    out = tmp_path / "labels"
    with only_run(out, "out"):
        with pytest.raises(ValueError, match="another run is writing now"):
            run(lam, root, out)
    assert not out.exists()


def test_a_dataset_that_has_changed_is_other_work(lam, tmp_path):
    root = make_tiny_dataset(tmp_path / "data", num_frames=8, action=False, state=False)
    out = tmp_path / "labels"
    run(lam, root, out)
    before = file_contents(out)
    for name, changes in (
        ("more", {"num_episodes": 3}),
        ("longer", {"num_frames": 9}),
        ("faster", {"fps": 20}),
        ("other", {"seed": 3}),
    ):
        options = {"num_frames": 8, "action": False, "state": False} | changes
        other = make_tiny_dataset(tmp_path / name, **options)
        with pytest.raises(ValueError, match="which holds other labels"):
            run(lam, other, out)
    assert file_contents(out) == before
    moved = tmp_path / "moved"
    root.rename(moved)
    assert run(lam, moved, out).manifest.valid == 8, "the same dataset elsewhere"


def test_a_moved_dataset_is_found_by_a_run_that_goes_on(lam, tmp_path, monkeypatch):
    root = make_tiny_dataset(tmp_path / "data", num_frames=8, action=False, state=False)
    interrupted(monkeypatch, 1, lam, root, tmp_path / "labels")
    root.rename(tmp_path / "moved")
    run(lam, tmp_path / "moved", tmp_path / "labels")
    assert len(LatentLabels(tmp_path / "labels")) == 16


def test_paths_may_be_relative_and_the_labels_serve_from_anywhere(lam, tmp_path, monkeypatch):
    make_tiny_dataset(tmp_path / "local" / "tiny", num_frames=8)
    shutil.copytree(lam, tmp_path / "runs" / "lam")
    monkeypatch.chdir(tmp_path)
    interrupted(monkeypatch, 1, "runs/lam", "local/tiny", "out/labels")
    plan = json.loads((tmp_path / "out/labels/plan.json").read_text())
    assert plan["entry"]["root"] == str(tmp_path / "local/tiny") and plan["lam"]["path"] == str(
        tmp_path / "runs/lam"
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["label", "~/runs/lam", "~/local/tiny", "--out=~/out/labels", "--shard-frames=8"]) == 0
    labels = LatentLabels("~/out/labels")
    assert labels.manifest.lam["name"] == "lam" and labels.folder == tmp_path / "out/labels"
    assert len(LeRobotDataset(REPO_ID, root=tmp_path / "local/tiny")) == len(labels)
