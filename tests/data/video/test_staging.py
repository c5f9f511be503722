import json
import shutil

import pytest
from support.videos import load, write_clip

from lerobot_lara.data.video import assemble
from lerobot_lara.data.video import import_video as module
from lerobot_lara.data.video.dataset import MANIFEST_PATH
from lerobot_lara.data.video.import_video import import_video


@pytest.fixture
def folder(tmp_path):
    """Two small clips that share rate and size."""
    write_clip(tmp_path / "clips" / "a.mp4", num_frames=4)
    write_clip(tmp_path / "clips" / "b.mp4", num_frames=5)
    return tmp_path / "clips"


@pytest.fixture
def stopped(folder, monkeypatch):
    """The folder of an import that was stopped after its first clip, as if killed."""
    stage, finish = module.stage_clip, module._complete

    def stage_first(repo_id, place, *args, **options):
        if place.name == "0000001":
            raise SystemExit
        return stage(repo_id, place, *args, **options)

    monkeypatch.setattr(module, "stage_clip", stage_first)
    monkeypatch.setattr(module, "_complete", lambda *_: None)
    with pytest.raises(SystemExit):
        run_import(folder)
    monkeypatch.setattr(module, "stage_clip", stage)
    monkeypatch.setattr(module, "_complete", finish)
    return folder.parent / "dataset.partial"


def run_import(folder, **options):
    return import_video(
        folder, "local/clips", **{"root": folder.parent / "dataset", "storage": "image", **options}
    )


class TestStopped:
    def test_is_continued_only_when_told(self, folder, stopped):
        with pytest.raises(
            ValueError, match=r"dataset\.partial holds an import that was stopped. Set `resume`"
        ):
            run_import(folder)
        result = run_import(folder, resume=True)
        assert result.imported == ["a.mp4", "b.mp4"] and not stopped.exists()
        assert [episode["length"] for episode in load(result.root).meta.episodes] == [4, 5]

    def test_is_discarded_by_overwrite(self, folder, stopped):
        (folder / "a.mp4").unlink()
        assert run_import(folder, overwrite=True).imported == ["b.mp4"] and not stopped.exists()

    def test_clips_that_are_gone_since_are_kept(self, folder, stopped):
        (folder / "a.mp4").unlink()
        assert run_import(folder, resume=True).imported == ["a.mp4", "b.mp4"]

    def test_is_not_continued_with_other_settings(self, folder, stopped):
        with pytest.raises(ValueError, match=r"would change the dataset: `fit` was 'crop' and is now 'pad'"):
            run_import(folder, resume=True, fit="pad")

    @pytest.mark.parametrize(
        "text",
        ["", "{", "[]", "{}", '{"settings": 3}', '{"settings": {}}', '{"clips": []}', "[" * 100_000, "\xff"],
    )
    def test_a_torn_manifest_is_named(self, folder, stopped, text):
        (stopped / MANIFEST_PATH).write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match=r"partial/meta/import_video\.json: .* Set `overwrite` to start"):
            run_import(folder, resume=True)
        assert run_import(folder, overwrite=True).num_episodes == 2

    def test_a_torn_record_of_a_clip_is_named(self, folder, stopped):
        (stopped / "clips" / "0000000" / "meta" / "clip.json").write_text('{"name": "a.mp4"')
        with pytest.raises(ValueError, match=r"clip\.json is not the record of a clip .* Delete .*0000000"):
            run_import(folder, resume=True)
        shutil.rmtree(stopped / "clips" / "0000000")
        assert run_import(folder, resume=True).imported == ["a.mp4", "b.mp4"]

    @pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"resume": True}])
    def test_a_place_of_somebody_else_is_left_alone(self, folder, options):
        precious = folder.parent / "dataset.partial" / "thesis.txt"
        precious.parent.mkdir()
        precious.write_text("three years")
        with pytest.raises(ValueError, match=r"dataset\.partial exists, and no video import has written it"):
            run_import(folder, **options)
        assert precious.read_text() == "three years"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda m: m.pop("settings"), "it has no `settings`"),
        (lambda m: m.update(clips={}), "`clips` is not a list of names"),
        (lambda m: m.update(clips=["a.mp4", 1]), "`clips` is not a list of names"),
        (lambda m: m["settings"].update(fps="30"), "the setting `fps` is '30'"),
        (lambda m: m["settings"].update(fps=True), "the setting `fps` is True"),
        (lambda m: m["settings"].update(fit="stretch"), "the setting `fit` is 'stretch'"),
        (lambda m: m["settings"].update(window_s=[1]), r"the setting `window_s` is \[1\]"),
        (lambda m: m["settings"].update(resampled=None), "the setting `resampled` is None"),
        (lambda m: m["settings"].update(color="blue"), "the setting 'color' is unknown"),
        (lambda m: m["settings"].pop("height"), "the setting `height` is missing"),
    ],
)
def test_a_foreign_manifest_is_refused(folder, change, problem):
    root = run_import(folder).root
    manifest = json.loads((root / MANIFEST_PATH).read_text())
    change(manifest)
    (root / MANIFEST_PATH).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=rf"import_video\.json: {problem}, so it was not written by a video"):
        run_import(folder, resume=True)


def test_a_manifest_without_later_settings_is_read(folder):
    root = run_import(folder).root
    manifest = json.loads((root / MANIFEST_PATH).read_text())
    del manifest["settings"]["resampled"], manifest["settings"]["window_s"]
    (root / MANIFEST_PATH).write_text(json.dumps(manifest))
    assert run_import(folder, resume=True).imported == []


def test_an_interrupted_overwrite_keeps_the_old_dataset_and_what_is_finished(folder, monkeypatch):
    root = run_import(folder).root
    write_clip(folder / "c.mp4", num_frames=3)
    read = module.read_frames

    def interrupted(path, **options):
        if path.name == "b.mp4":
            raise KeyboardInterrupt
        return read(path, **options)

    monkeypatch.setattr(module, "read_frames", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_import(folder, overwrite=True)
    assert load(root).num_episodes == 2
    monkeypatch.undo()
    assert run_import(folder, resume=True).imported == ["a.mp4", "b.mp4", "c.mp4"]
    assert load(root).num_episodes == 3


@pytest.mark.parametrize("storage", ["image", "video"])
def test_files_have_a_limited_size(folder, storage, monkeypatch):
    for name in "cdef":
        write_clip(folder / f"{name}.mp4", num_frames=3)
    whole = run_import(folder, storage=storage)

    def with_small_files(path):
        info = load_info(path)
        info.data_files_size_in_mb = info.video_files_size_in_mb = 2.5 * largest / 2**20
        return info

    suffix = ".mp4" if storage == "video" else ".parquet"
    kind = "videos" if storage == "video" else "data"
    single = run_import(folder, root=folder.parent / "single", storage=storage, segments=[{"file": "a"}])
    largest = sum(path.stat().st_size for path in (single.root / kind).rglob(f"*{suffix}"))
    load_info = assemble.load_info
    monkeypatch.setattr(assemble, "load_info", with_small_files)
    parts = run_import(folder, root=folder.parent / "parts", storage=storage)
    assert len(list((parts.root / kind).rglob(f"*{suffix}"))) > 1
    expected, found = load(whole.root), load(parts.root)
    assert len(expected) == len(found) == 21
    for index in (0, 3, 4, 9, 12, 20):
        for key, value in expected[index].items():
            assert (
                value == found[index][key] if isinstance(value, str) else (value == found[index][key]).all()
            )
