import io
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.videos import (
    BLUE,
    CAMERA,
    GREEN,
    GREY,
    RED,
    assert_colors,
    corners,
    cut_off,
    damage,
    load,
    psnr,
    to_uint8,
    write_clip,
    write_no_frames,
    write_noise,
    write_numbered_clip,
    write_sound,
)

from lerobot_lara.cli import main
from lerobot_lara.data.video import import_video as module
from lerobot_lara.data.video.clip import read_frames
from lerobot_lara.data.video.dataset import ERRORS_PATH, MANIFEST_PATH
from lerobot_lara.data.video.import_video import DEFAULT_CAPTION, import_video, resize_frame

FIXTURES = Path(__file__).parents[2] / "fixtures" / "fractal_clips"
CLIPS = sorted(path.name for path in FIXTURES.glob("*.mp4"))
CAPTIONS = FIXTURES / "lang_annotations.json"


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The fixture clips, imported as LeRobot's default video."""
    root = tmp_path_factory.mktemp("real") / "dataset"
    return import_video(
        FIXTURES, "local/clips", root=root, recorded_fps=3, captions=CAPTIONS, robot_type="google_robot"
    )


@pytest.fixture
def folder(tmp_path):
    """Two small clips that share rate and size."""
    write_clip(tmp_path / "clips" / "b.mp4", num_frames=5)
    write_clip(tmp_path / "clips" / "a.avi", num_frames=4)
    return tmp_path / "clips"


def run_import(folder, **options):
    return import_video(
        folder, "local/clips", **{"root": folder.parent / "dataset", "storage": "image", **options}
    )


class TestRealClips:
    def test_every_clip_is_an_episode_with_its_caption(self, real):
        captions = json.loads(CAPTIONS.read_text())
        assert (real.num_episodes, real.num_frames, real.imported) == (3, 33 + 29 + 18, CLIPS)
        assert not real.failures and not real.without_caption and not real.unused_captions
        assert real.ignored == ["README.md", "lang_annotations.json"]
        dataset = load(real.root)
        assert dataset.fps == 3 and dataset.meta.robot_type == "google_robot"
        assert [episode["length"] for episode in dataset.meta.episodes] == [33, 29, 18]
        assert [episode["tasks"] for episode in dataset.meta.episodes] == [[captions[name]] for name in CLIPS]

    def test_the_dataset_has_a_camera_and_neither_action_nor_state(self, real):
        dataset = load(real.root)
        bookkeeping = {"timestamp", "frame_index", "episode_index", "index", "task_index"}
        assert set(dataset.features) == {CAMERA, *bookkeeping}
        assert dataset.features[CAMERA]["dtype"] == "video"
        assert tuple(dataset.features[CAMERA]["shape"]) == (256, 320, 3)

    def test_frames_are_those_of_the_clips(self, real):
        dataset = load(real.root)
        for episode, name in enumerate(CLIPS):
            source = [np.asarray(image) for image in read_frames(FIXTURES / name)]
            first = dataset.meta.episodes[episode]["dataset_from_index"]
            for index in (0, len(source) // 2, len(source) - 1):
                item = dataset[first + index]
                assert item["timestamp"] == pytest.approx(index / 3)
                frame = to_uint8(item[CAMERA])
                assert psnr(frame, source[index]) > 35
                assert psnr(frame[..., ::-1], source[index]) < 20
            # At its middle every clip moves: no frame was dropped or repeated before.
            middle = to_uint8(dataset[first + len(source) // 2][CAMERA])
            assert np.argmax([psnr(middle, frame) for frame in source]) == len(source) // 2

    def test_image_statistics_exist_and_can_be_replaced_by_imagenet_ones(self, real):
        from lerobot.configs.default import DatasetConfig
        from lerobot.configs.train import TrainPipelineConfig
        from lerobot.datasets.factory import IMAGENET_STATS, make_dataset
        from lerobot.policies.act.configuration_act import ACTConfig

        stats = load(real.root).meta.stats[CAMERA]
        frames = np.stack([np.asarray(image) for name in CLIPS for image in read_frames(FIXTURES / name)])
        np.testing.assert_allclose(stats["mean"].ravel(), frames.mean((0, 1, 2)) / 255, atol=0.01)
        np.testing.assert_allclose(stats["std"].ravel(), frames.std((0, 1, 2)) / 255, atol=0.01)
        config = TrainPipelineConfig(
            dataset=DatasetConfig(repo_id="local/clips", root=str(real.root), use_imagenet_stats=True),
            policy=ACTConfig(push_to_hub=False),
        )
        replaced = make_dataset(config).meta.stats[CAMERA]
        np.testing.assert_allclose(np.ravel(replaced["mean"]), np.ravel(IMAGENET_STATS["mean"]), atol=1e-6)

    def test_no_frames_lie_about_after_encoding(self, real):
        assert not list(real.root.rglob("*.png"))


class TestResizing:
    def test_crop_keeps_the_aspect_ratio_and_cuts_both_sides(self):
        picture = np.zeros((20, 60, 3), np.uint8)
        picture[:, 20:40] = 255
        assert (resize_frame(Image.fromarray(picture), height=20, width=20, fit="crop") == 255).all()

    def test_pad_keeps_the_whole_picture_between_black_bars(self):
        picture = Image.fromarray(np.full((20, 40, 3), 255, np.uint8))
        frame = resize_frame(picture, height=20, width=20, fit="pad")
        assert (frame[5:15] == 255).all() and (frame[:5] == 0).all() and (frame[15:] == 0).all()

    def test_a_picture_of_the_right_size_is_not_touched(self):
        picture = np.random.default_rng(0).integers(0, 256, (17, 23, 3), dtype=np.uint8)
        for fit in ("crop", "pad"):
            assert (resize_frame(Image.fromarray(picture), height=17, width=23, fit=fit) == picture).all()


class TestOptions:
    def test_clips_come_in_the_order_of_their_paths_at_their_own_rate_and_size(self, folder):
        write_clip(folder / "c" / "a.mp4", num_frames=3)
        (folder / ".hidden.mp4").write_bytes(b"not looked at")
        result = run_import(folder)
        assert result.imported == ["a.avi", "b.mp4", "c/a.mp4"] and not result.failures
        dataset = load(result.root)
        assert [episode["length"] for episode in dataset.meta.episodes] == [4, 5, 3]
        assert dataset.fps == 10
        assert_colors(corners(to_uint8(dataset[0][CAMERA])), RED, GREEN, GREY, BLUE)

    def test_different_clips_are_brought_to_one_rate_and_size(self, folder):
        write_clip(folder / "c.mkv", height=80, width=40, fps=25, num_frames=3)
        result = run_import(folder, recorded_fps=5, size=(32, 40), camera_key="observation.image")
        dataset = load(result.root)
        assert dataset.fps == 5 and result.num_frames == 4 + 5 + 3
        assert {tuple(dataset[index]["observation.image"].shape) for index in (0, 11)} == {(3, 32, 40)}

    def test_captions_are_found_by_path_name_and_stem(self, folder):
        write_clip(folder / "c" / "a.avi", num_frames=3)
        captions = {"c/a.avi": "by path", "a.avi": " by name ", "b": "by stem", "gone.mp4": "nothing"}
        result = run_import(folder, captions=captions)
        assert [episode["tasks"] for episode in load(result.root).meta.episodes] == [
            ["by name"],
            ["by stem"],
            ["by path"],
        ]
        assert result.unused_captions == ["gone.mp4"] and result.without_caption == []

    def test_a_clip_without_caption_gets_the_default(self, folder):
        result = run_import(folder, captions={"b": "push"})
        assert [episode["tasks"] for episode in load(result.root).meta.episodes] == [
            [DEFAULT_CAPTION],
            ["push"],
        ]
        assert result.without_caption == ["a.avi"]

    def test_captions_may_be_a_list_of_ids_and_labels(self, folder):
        entries = [
            {
                "id": "b",
                "label": "pushing a cup",
                "template": "Pushing [something]",
                "placeholders": ["a cup"],
            },
            {"id": "a", "label": "closing a book"},
        ]
        captions = folder.parent / "train.json"
        captions.write_text(json.dumps(entries))
        tasks = [
            episode["tasks"] for episode in load(run_import(folder, captions=captions).root).meta.episodes
        ]
        assert tasks == [["closing a book"], ["pushing a cup"]]

    @pytest.mark.parametrize("rates", [(30000 / 1001, 30), (29.8, 30.3)])
    def test_rates_that_round_to_one_number_count_as_equal(self, rates, monkeypatch, folder):
        probe = module.probe_clips

        def with_rates(paths, **options):
            clips, failures = probe(paths, **options)
            return {n: replace(c, fps=rate) for (n, c), rate in zip(clips.items(), rates)}, failures

        monkeypatch.setattr(module, "probe_clips", with_rates)
        assert run_import(folder).settings.fps == 30


class TestBadFiles:
    @pytest.fixture
    def bad_folder(self, folder):
        (folder / "empty.mp4").touch()
        (folder / "text.webm").write_text("not a video")
        write_sound(folder / "sound.mp4")
        write_sound(folder / "sound_with_cover.mp4", cover=True)
        write_clip(folder / "single.avi", num_frames=1)
        cut_off(write_clip(folder / "cut.mkv", num_frames=30))
        write_no_frames(folder / "no_frames.mov")
        damage(write_noise(folder / "damaged.avi"))
        write_numbered_clip(folder / "uneven.mov", [0, 100, 150, 300], codec="mpeg4")
        return folder

    def test_they_are_left_out_with_their_reasons_and_the_rest_is_imported(self, bad_folder):
        result = run_import(bad_folder, size=(48, 64))
        assert result.imported == ["a.avi", "b.mp4"]
        reasons = {
            "empty.mp4": r"empty file \(0 bytes\)",
            "text.webm": "not a readable video: Invalid data.*",
            "sound.mp4": r"no video stream \(audio only\)",
            "sound_with_cover.mp4": r"no video stream \(audio only\)",
            "single.avi": "a single frame: nothing moves",
            "cut.mkv": "cut off: only .* of 3.00 s can be decoded",
            "no_frames.mov": "no frame could be decoded|no video stream|not a readable video: .*",
            "damaged.avi": r"damaged at \d\.\d\d s",
            "uneven.mov": r"variable frame rate: frames are 50 to 100 ms apart at 0\.15 s\. Set `fps`.*",
        }
        assert result.failures.keys() == reasons.keys()
        assert not [name for name in reasons if not re.fullmatch(reasons[name], result.failures[name])]
        dataset = load(result.root)
        assert [episode["length"] for episode in dataset.meta.episodes] == [4, 5]
        assert_colors(corners(to_uint8(dataset[8][CAMERA])), RED, GREEN, GREY, BLUE)

    def test_the_command_reports_them_and_fails_only_when_strict(self, bad_folder, capsys):
        root = bad_folder.parent / "dataset"
        (bad_folder / "uneven.mov").unlink()
        command = f"import-video {bad_folder} local/clips --root {root} --storage image"
        assert main(command.split()) == 0
        output, log = capsys.readouterr()
        assert "2 clips imported" in output and "holds 2 episodes, 9 frames of 48x64" in output
        assert f"8 could not be imported; the reasons are above and in {root / ERRORS_PATH}" in output
        assert "  empty.mp4: empty file (0 bytes)\n" in log and "  cut.mkv: cut off" in log
        errors = json.loads((root / ERRORS_PATH).read_text())
        assert len(errors) == 8 and errors["single.avi"] == "a single frame: nothing moves"
        assert main([*command.split(), "--resume", "--strict"]) == 1

    def test_the_report_goes_when_nothing_is_wrong_any_more(self, folder):
        (folder / "empty.mp4").touch()
        root = run_import(folder).root
        assert json.loads((root / ERRORS_PATH).read_text()) == {"empty.mp4": "empty file (0 bytes)"}
        (folder / "empty.mp4").unlink()
        run_import(folder, resume=True)
        assert not (root / ERRORS_PATH).exists()

    def test_a_long_clip_that_breaks_leaves_no_frame_in_the_next_episode(self, folder):
        cut_off(write_clip(folder / "a.avi", num_frames=200, height=240, width=320))
        write_clip(folder / "b.mp4", num_frames=5, height=240, width=320)
        result = run_import(folder, storage="video")
        assert result.imported == ["b.mp4"]
        assert [len(list(read_frames(path))) for path in result.root.rglob("*.mp4")] == [5]

    @pytest.mark.parametrize("names", [["empty.mp4"], ["cut.mkv"]], ids=["does not open", "does not decode"])
    def test_when_nothing_is_left_there_is_an_error_and_no_dataset(self, bad_folder, names):
        for path in bad_folder.iterdir():
            if path.name not in names:
                path.unlink()
        with pytest.raises(
            ValueError, match=rf"none of 1 clip\(s\) can be imported.*\n  {names[0]}: (empty|cut off)"
        ):
            run_import(bad_folder)
        assert not (bad_folder.parent / "dataset").exists()

    def test_a_folder_without_clips(self, tmp_path):
        (tmp_path / "clips").mkdir()
        (tmp_path / "clips" / "notes.txt").touch()
        with pytest.raises(ValueError, match=r"clips contains no video clip, only 1 other file.*\.mp4"):
            run_import(tmp_path / "clips")

    def test_a_folder_that_is_none(self, tmp_path):
        with pytest.raises(ValueError, match=r"`folder` is .*absent, which is not a folder"):
            run_import(tmp_path / "absent")

    def test_a_drawing_is_left_out(self, folder):
        (folder / "drawing.gif").write_text(
            '<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="64" height="48"/>\n'
        )
        result = run_import(folder)
        assert result.failures == {"drawing.gif": "there is no decoder for its format"}
        assert result.imported == ["a.avi", "b.mp4"]

    def test_a_name_that_is_not_utf8_is_kept(self, folder, capsys):
        name = os.fsdecode(b"caf\xe9.mp4")
        (folder / "b.mp4").rename(folder / name)
        (folder / os.fsdecode(b"broken\xe9.mp4")).touch()
        root = folder.parent / "dataset"
        command = f"import-video {folder} local/clips --root {root} --storage image"
        assert main(command.split()) == 0
        assert "caf" in capsys.readouterr().out
        manifest = json.loads((root / MANIFEST_PATH).read_text(encoding="utf-8"))
        assert manifest["clips"] == ["a.avi", name] and os.fsencode(manifest["clips"][1]) == b"caf\xe9.mp4"
        assert [os.fsencode(key) for key in json.loads((root / ERRORS_PATH).read_bytes())] == [
            b"broken\xe9.mp4"
        ]
        assert run_import(folder, resume=True).imported == []

    def test_a_report_fits_the_terminal(self, folder, monkeypatch):
        write_clip(folder / "caf\u00e9.mp4", num_frames=3)
        output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        monkeypatch.setattr("sys.stdout", output)
        command = f"import-video {folder} local/clips --root {folder.parent / 'dataset'} --storage image"
        assert main(command.split()) == 0
        output.flush()
        assert b"caf\\xe9.mp4" in output.buffer.getvalue()


class TestBadOptions:
    def test_differing_rates_need_fps(self, folder):
        write_clip(folder / "c.mkv", fps=25)
        with pytest.raises(
            ValueError, match=r"`fps` is not set, and the clips differ: 10 \(2 clip.*25 \(1 clip"
        ):
            run_import(folder)

    def test_a_fractional_rate_needs_fps(self, tmp_path):
        write_clip(tmp_path / "clips" / "c.gif", codec="gif", pix_fmt="rgb8", fps=12)
        with pytest.raises(
            ValueError, match=r"`fps` is not set, and the clips play at 12\.50 .* whole number"
        ):
            run_import(tmp_path / "clips")

    def test_differing_sizes_need_size(self, folder):
        write_clip(folder / "c.mkv", height=64, width=48)
        with pytest.raises(ValueError, match=r"`size` is not set, .*48x64 \(2 clip.*64x48 \(1 clip"):
            run_import(folder)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"camera_key": "front"}, "`camera_key` is 'front'.*observation.images.<name>"),
            ({"camera_key": "observation.images."}, "`camera_key` is 'observation.images.'"),
            ({"fit": "stretch"}, "`fit` is 'stretch'; it must be 'crop' or 'pad'"),
            ({"storage": "png"}, "`storage` is 'png'; it must be 'video' or 'image'"),
            ({"default_caption": " "}, "`default_caption` is empty; it must be a text"),
            ({"fps": 0}, "`fps` is 0.*at least 1"),
            ({"fps": -5}, "`fps` is -5.*at least 1"),
            ({"fps": 2.5}, r"`fps` is 2\.5.*whole number"),
            ({"recorded_fps": 0}, "`recorded_fps` is 0.*at least 1"),
            (
                {"fps": 5, "recorded_fps": 5},
                "`fps` and `recorded_fps` are both set; they exclude each other. Set",
            ),
            ({"num_workers": -1}, "`num_workers` is -1; it must be a whole number, or 0"),
            ({"num_workers": 1.5}, "`num_workers` is 1.5; it must be a whole number"),
            ({"window_s": 0}, "`window_s` is 0; it must be .* above 0"),
            ({"window_s": -1.0}, "`window_s` is -1.0; it must be .* above 0"),
            ({"window_s": float("nan")}, "`window_s` is nan; it must be"),
            ({"window_s": 1, "segments": [{"file": "a"}]}, "`segments` and `window_s` are both set; they"),
            ({"size": 0}, "`size` is 0x0.*at least 1 pixel"),
            ({"size": 16, "storage": "video"}, "`size` is 16x16.*at least 32 pixels.*storage=image"),
            (
                {"fps": 960, "storage": "video"},
                "`fps` is 960; it must be at most 240 .*`storage=image` for up",
            ),
            ({"fps": 10**9}, "`fps` is 1000000000; it must be at most 1000 .*Choose a lower"),
            ({"recorded_fps": 10**20}, "`recorded_fps` is 10{20}; it must be at most 1000"),
            ({"size": 1_000_000}, "`size` is 1000000x1000000.*at most 8192 pixels. Choose a smaller"),
            ({"window_s": 1e-9}, "`window_s` is 1e-09; it must be at least 0.2 s, .* 10 frames per second"),
            ({"window_s": 0.05, "fps": 20}, "`window_s` is 0.05; it must be at least 0.1 s"),
            ({"num_workers": 10**6}, "`num_workers` is 1000000; .*at most 256"),
            ({"camera_key": "observation.images.../../x"}, "`camera_key` is .*letters, digits"),
            ({"default_caption": "caf\udce9"}, "`default_caption` is 'caf.udce9'; it must be .* UTF-8"),
            ({"robot_type": "caf\udce9"}, "`robot_type` is 'caf.udce9'; it must be .* UTF-8"),
            ({"root": "caf\udce9"}, "`root` is 'caf.udce9'; it must be a path in UTF-8"),
            ({"root": "/proc/nowhere/dataset"}, "/proc/nowhere.* cannot be written: .*choose another `root`"),
            ({"captions": {"a": "\udce9"}}, "`captions`: the caption of 'a' is '.udce9'"),
            ({"segments": [{"file": "a", "caption": "\udce9"}]}, "`caption` is '.udce9'; it must be a text"),
            ({"overwrite": True, "resume": True}, "`overwrite` and `resume` are both set; they"),
            ({"captions": {"a": ""}}, "`captions`: the caption of 'a' is ''. Give a text"),
            ({"captions": {"a": ["x"]}}, r"the caption of 'a' is \['x'\]"),
            (
                {"captions": "absent.json"},
                "absent.json cannot be read: No such file.*Give a JSON",
            ),
        ],
    )
    def test_each_names_its_option_and_the_way_out(self, folder, options, message):
        with pytest.raises(ValueError, match=message):
            run_import(folder, **options)
        assert not (folder.parent / "dataset").exists()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "is not JSON"),
            ("[" * 100_000, "is not JSON"),
            ("3", "holds a int"),
            ('["a"]', r"entry 1 is 'a'\. It must hold"),
            ('[{"id": "a", "label": "x"}, {"id": "b"}]', r"entry 2 is {'id': 'b'}\. It must hold"),
            ('[{"id": "a", "label": ""}]', "the caption of 'a' is ''"),
            (
                '[{"id": 1, "label": "x"}, {"id": 1, "label": "y"}]',
                "'1' has two labels, 'x' and 'y'. Keep one",
            ),
        ],
    )
    def test_caption_files_that_are_no_captions(self, folder, text, message):
        captions = folder.parent / "captions.json"
        captions.write_text(text)
        with pytest.raises(ValueError, match=f"captions.json:? {message}"):
            run_import(folder, captions=captions)

    def test_captions_may_begin_with_a_byte_order_mark(self, folder):
        captions = folder.parent / "captions.json"
        captions.write_text(json.dumps({"a": "push"}), encoding="utf-8-sig")
        assert run_import(folder, captions=captions).without_caption == ["b.mp4"]

    def test_segments_with_a_cell_without_end(self, folder):
        segments = folder.parent / "segments.csv"
        segments.write_text("file,caption\na," + "x" * 200_000)
        with pytest.raises(ValueError, match=r"segments\.csv is not CSV \(field larger.*follows line 1"):
            run_import(folder, segments=segments)

    def test_a_rate_of_the_clips_that_cannot_be_stored(self, tmp_path):
        write_numbered_clip(tmp_path / "clips" / "fast.mkv", list(range(0, 12, 2)), last_ms=2)
        with pytest.raises(ValueError, match=r"`fps` is 1000; it must be at most 240"):
            run_import(tmp_path / "clips", storage="video")

    def test_a_repo_id_that_is_none(self, folder):
        with pytest.raises(ValueError, match="Repo id"):
            import_video(folder, "a/b/c", root=folder.parent / "dataset")

    @pytest.mark.parametrize("size", ["x", "64x", "64x64x3", "-5", "big"])
    def test_the_command_rejects_a_size_it_cannot_read(self, folder, size, capsys):
        assert main(["import-video", str(folder), "local/clips", f"--size={size}"]) == 2
        assert f"`--size` is {size!r}; it must be HEIGHTxWIDTH" in capsys.readouterr().err


class TestExistingDataset:
    @staticmethod
    def contents(root):
        return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    def test_is_not_touched_unless_told(self, folder):
        root = run_import(folder).root
        before = self.contents(root)
        with pytest.raises(
            ValueError,
            match=r"dataset already exists\. Choose another `root`, or set `overwrite` or `resume`",
        ):
            run_import(folder)
        assert self.contents(root) == before

    def test_an_empty_folder_is_used(self, folder):
        (folder.parent / "dataset").mkdir()
        assert run_import(folder).num_episodes == 2

    def test_overwrite_replaces_it(self, folder):
        run_import(folder)
        (folder / "a.avi").unlink()
        result = run_import(folder, overwrite=True)
        assert [episode["length"] for episode in load(result.root).meta.episodes] == [5]
        assert [path.name for path in folder.parent.iterdir() if path != folder] == ["dataset"]

    def test_overwrite_puts_it_back_when_the_import_fails(self, folder):
        root = run_import(folder).root
        before = self.contents(root)
        shutil.rmtree(folder)
        cut_off(write_clip(folder / "cut.mkv", num_frames=30))
        with pytest.raises(ValueError, match="none of 1 clip"):
            run_import(folder, overwrite=True)
        assert self.contents(root) == before

    def test_overwrite_does_not_delete_what_is_no_dataset(self, folder):
        precious = folder.parent / "dataset" / "thesis.txt"
        precious.parent.mkdir()
        precious.write_text("three years")
        with pytest.raises(
            ValueError, match=r"dataset is not a LeRobotDataset, so it will not be overwritten"
        ):
            run_import(folder, overwrite=True)
        assert precious.read_text() == "three years"

    def test_overwrite_does_not_use_a_place_that_a_killed_import_left(self, folder):
        root = run_import(folder).root
        root.with_name("dataset.replaced").mkdir()
        with pytest.raises(ValueError, match=r"dataset\.replaced exists: .*killed.*Move it back"):
            run_import(folder, overwrite=True)
        assert load(root).num_episodes == 2

    @pytest.mark.parametrize("place", ["clips", "clips/dataset", "."])
    def test_source_and_dataset_are_kept_apart(self, folder, place):
        with pytest.raises(ValueError, match=r"must not contain the clips' folder .* or be inside it"):
            run_import(folder, root=folder.parent / place, overwrite=True)
        assert len(list(folder.iterdir())) == 2

    def test_resume_adds_only_what_is_new(self, folder):
        (folder / "broken.mp4").touch()
        first = run_import(folder, storage="video", captions={"a": "first"})
        assert "broken.mp4" in first.failures
        (folder / "broken.mp4").unlink()
        write_clip(folder / "0.mp4", num_frames=3)
        result = run_import(folder, storage="video", captions={"0": "last"}, resume=True)
        assert result.imported == ["0.mp4"] and (result.num_episodes, result.num_frames) == (3, 12)
        dataset = load(result.root)
        assert [episode["length"] for episode in dataset.meta.episodes] == [4, 5, 3]
        assert [dataset[index]["task"] for index in (0, 4, 11)] == ["first", DEFAULT_CAPTION, "last"]
        assert_colors(corners(to_uint8(dataset[11][CAMERA])), RED, GREEN, GREY, BLUE)
        again = run_import(folder, storage="video", resume=True)
        assert again.imported == [] and again.num_episodes == 3

    def test_resume_starts_where_there_is_nothing(self, folder):
        assert run_import(folder, resume=True).num_episodes == 2

    def test_resume_does_not_change_the_settings(self, folder):
        run_import(folder)
        with pytest.raises(
            ValueError,
            match=r"would change the dataset: `fps` was 10 and is now 3; .*`fit` was 'crop' and is now 'pad'.*Repeat",
        ):
            run_import(folder, recorded_fps=3, fit="pad", resume=True)

    def test_resume_refuses_what_is_no_import(self, folder):
        root = run_import(folder).root
        (root / MANIFEST_PATH).unlink()
        with pytest.raises(
            ValueError, match=r"cannot be resumed: it has no meta/import_video\.json.*overwrite"
        ):
            run_import(folder, resume=True)

    def test_an_interrupted_import_is_complete_so_far_and_can_be_resumed(self, folder, monkeypatch):
        read = module.read_frames

        def interrupted(path, **options):
            frames = read(path, **options)
            yield next(frames)
            if path.name == "b.mp4":
                raise KeyboardInterrupt
            yield from frames

        monkeypatch.setattr(module, "read_frames", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_import(folder)
        assert load(folder.parent / "dataset").num_episodes == 1
        assert not (folder.parent / "dataset" / "images").exists()
        monkeypatch.undo()
        result = run_import(folder, resume=True)
        assert result.imported == ["b.mp4"]
        assert [episode["length"] for episode in load(result.root).meta.episodes] == [4, 5]


def test_the_command_takes_every_option(folder, tmp_path, capsys):
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps({"a": "push", "x": "nothing"}))
    root = tmp_path / "dataset"
    command = (
        f"import-video {folder} local/clips --root {root} --recorded-fps 4 --size 40x32 --fit pad --captions "
        f"{captions} --default-caption none --storage image --camera-key observation.images.wrist --robot-type so100"
    )
    assert main(command.split()) == 0
    output = capsys.readouterr().out
    assert "2 clips imported" in output and "9 frames of 40x32 (height x width) at 4 fps" in output
    assert "1 clips have no caption: b.mp4" in output and "1 captions name no clip: x" in output
    dataset = load(root)
    item = dataset[0]
    assert (
        item["observation.images.wrist"].shape == (3, 40, 32)
        and item["observation.images.wrist"][:, :2].max() < 0.1
    )
    assert [episode["tasks"] for episode in dataset.meta.episodes] == [["push"], ["none"]]
    assert dataset.meta.robot_type == "so100" and dataset.fps == 4
    assert main([*command.split(), "--resume"]) == 0
    assert main(command.split()) == 2
    assert "set `overwrite` or `resume`" in capsys.readouterr().err
