"""Segments, windows, resampling and workers of `lara import-video`."""

import json

import pytest
from support.videos import CAMERA, cut_off, load, numbers, rotate_by_metadata, to_uint8, write_numbered_clip

from lerobot_lara.cli import main
from lerobot_lara.data.video.dataset import ERRORS_PATH
from lerobot_lara.data.video.import_video import DEFAULT_CAPTION, import_video

EVEN = list(range(0, 2400, 100))
UNEVEN = [0, 50, 100, 350, 400, 900, 1000, 1050]


@pytest.fixture
def folder(tmp_path):
    """2.4 s at 10 Hz, and 1.15 s at a variable rate."""
    write_numbered_clip(tmp_path / "videos" / "long.mp4", EVEN, gop=7)
    write_numbered_clip(tmp_path / "videos" / "phone.mp4", UNEVEN, codec="mpeg4")
    return tmp_path / "videos"


def run_import(folder, **options):
    return import_video(
        folder, "local/clips", **{"root": folder.parent / "dataset", "storage": "image", **options}
    )


def episodes(result):
    """The numbers of the frames of each episode, as they are in the dataset."""
    dataset = load(result.root)
    frames = numbers(to_uint8(dataset[index][CAMERA]) for index in range(len(dataset)))
    return [
        frames[episode["dataset_from_index"] : episode["dataset_to_index"]]
        for episode in dataset.meta.episodes
    ]


def tasks(result):
    return [task for episode in load(result.root).meta.episodes for task in episode["tasks"]]


class TestResampling:
    def test_every_clip_is_brought_to_the_rate_by_the_times_of_its_frames(self, folder):
        result = run_import(folder, fps=5)
        assert result.settings.fps == load(result.root).fps == 5 and not result.failures
        assert episodes(result) == [list(range(0, 24, 2)), [0, 2, 4, 4, 4, 6]]

    def test_without_fps_a_variable_rate_is_reported_and_the_rest_imported(self, folder):
        write_numbered_clip(folder / "phone.mp4", [0, 50, 250, 300], codec="mpeg4")
        result = run_import(folder)
        assert episodes(result) == [list(range(24))]
        assert "variable frame rate: frames are 50 to 200 ms apart" in result.failures["phone.mp4"]
        errors = json.loads((result.root / ERRORS_PATH).read_text())
        assert errors == result.failures

    def test_recorded_fps_keeps_every_frame(self, folder):
        result = run_import(folder, recorded_fps=3)
        assert result.settings.fps == 3 and episodes(result) == [list(range(24)), list(range(8))]

    def test_a_rate_above_that_of_the_clips_is_warned_of(self, folder, caplog):
        (folder / "phone.mp4").unlink()
        result = run_import(folder, fps=20)
        assert episodes(result) == [[k // 2 for k in range(48)]]
        assert "`fps` is 20, but 1 clip(s) have fewer frames per second, for example long.mp4" in caplog.text

    def test_rotated_video_is_upright_when_resampled_and_cut(self, folder):
        rotate_by_metadata(folder / "phone.mp4")
        result = run_import(folder, fps=5, segments=[{"file": "phone", "start": 0.4}])
        assert (result.settings.height, result.settings.width) == (48, 32)
        assert episodes(result) == [[4, 4, 4, 6]]


class TestSegments:
    ROWS = "file,start,end,caption\nlong,1,1.5,grasp\nphone,0.35,1.1,\nlong.mp4,0.2,0.6,reach\n"

    @pytest.fixture
    def segments(self, folder):
        path = folder.parent / "segments.csv"
        path.write_text(self.ROWS)
        return path

    def test_each_row_is_an_episode(self, folder, segments):
        result = run_import(folder, recorded_fps=10, segments=segments, captions={"phone": "walk"})
        assert result.imported == ["long.mp4#t=1,1.5", "phone.mp4#t=0.35,1.1", "long.mp4#t=0.2,0.6"]
        assert episodes(result) == [[10, 11, 12, 13, 14], [3, 4, 5, 6, 7], [2, 3, 4, 5]]
        assert tasks(result) == ["grasp", "walk", "reach"]
        assert not result.without_caption and not result.without_segment

    def test_resampled(self, folder, segments):
        result = run_import(folder, fps=5, segments=segments)
        assert episodes(result) == [[10, 12, 14], [3, 4, 4, 5], [2, 4]]
        assert result.without_caption == ["phone.mp4#t=0.35,1.1"] and tasks(result)[1] == DEFAULT_CAPTION

    def test_clips_without_segment_are_neither_opened_nor_imported(self, folder, segments):
        (folder / "broken.mp4").touch()
        result = run_import(folder, fps=5, segments=segments)
        assert result.without_segment == ["broken.mp4"] and not result.failures

    def test_a_broken_file_fails_once_and_a_broken_part_by_its_name(self, folder):
        (folder / "broken.mp4").touch()
        cut_off(write_numbered_clip(folder / "cut.mkv", EVEN))
        rows = [
            {"file": "broken", "start": 0, "end": 1},
            {"file": "cut", "start": 0, "end": 1},
            {"file": "cut", "start": 0.5, "end": 2.4},
            {"file": "broken", "start": 1, "end": 2},
            {"file": "long", "start": 0.11, "end": 0.19},
        ]
        result = run_import(folder, recorded_fps=10, segments=rows)
        assert result.imported == ["cut.mkv#t=0,1"]
        assert result.failures.keys() == {"broken.mp4", "cut.mkv#t=0.5,2.4", "long.mp4#t=0.11,0.19"}
        assert "cut off: only" in result.failures["cut.mkv#t=0.5,2.4"]
        assert result.failures["long.mp4#t=0.11,0.19"] == "no frame in this time span"

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"file": "long", "end": 9}, r"long.mp4#t=0,9 \(the video is 2.4 s long\)"),
            ({"file": "gone", "end": 9}, r"1 video\(s\) that are not in the folder: gone"),
        ],
    )
    def test_a_row_that_does_not_fit_stops_the_import_before_it_writes(self, folder, row, message):
        with pytest.raises(ValueError, match=message):
            run_import(folder, fps=5, segments=[{"file": "long", "end": 1}, row])
        assert not (folder.parent / "dataset").exists()

    def test_resume_adds_new_rows_only(self, folder, segments):
        run_import(folder, fps=5, segments=segments)
        segments.write_text(self.ROWS + "long,0,0.4,new\n")
        result = run_import(folder, fps=5, segments=segments, resume=True)
        assert result.imported == ["long.mp4#t=0,0.4"]
        assert episodes(result) == [[10, 12, 14], [3, 4, 4, 5], [2, 4], [0, 2]]


class TestWindows:
    def test_every_clip_is_cut_into_windows(self, folder):
        result = run_import(folder, fps=10, window_s=0.9)
        phone = [0, 2, 2, 2, 4, 4, 4, 4, 4]
        assert result.imported == [
            "long.mp4#t=0,0.9",
            "long.mp4#t=0.9,1.8",
            "long.mp4#t=1.8,2.4",
            "phone.mp4#t=0,0.9",
        ]
        assert episodes(result) == [list(range(9)), list(range(9, 18)), list(range(18, 24)), phone]
        assert result.skipped.keys() == {"phone.mp4#t=0.9,1.15"}

    def test_together_they_hold_every_frame_once(self, folder):
        result = run_import(folder, recorded_fps=10, window_s=0.55)
        assert result.imported[:5] == [
            f"long.mp4#t={span}" for span in ("0,0.55", "0.55,1.1", "1.1,1.65", "1.65,2.2")
        ] + ["phone.mp4#t=0,0.55"]
        assert [frame for episode in episodes(result)[:4] for frame in episode] == list(range(22))

    def test_a_clip_too_short_for_any_is_reported(self, folder):
        write_numbered_clip(folder / "short.mkv", [0, 100, 200, 300])
        result = run_import(folder, fps=10, window_s=2)
        assert result.failures == {"short.mkv": "0.40 s long, shorter than the shortest window of 0.5 s"}

    def test_resume_does_not_mix_lengths(self, folder):
        run_import(folder, fps=10, window_s=1)
        with pytest.raises(
            ValueError, match=r"would change the dataset: `window_s` was 1 and is now 2\. Repeat"
        ):
            run_import(folder, fps=10, window_s=2, resume=True)
        assert run_import(folder, fps=10, window_s=1, resume=True).imported == []


class TestWorkers:
    @pytest.mark.parametrize("storage", ["image", "video"])
    def test_the_dataset_does_not_depend_on_their_number(self, folder, storage):
        (folder / "broken.mp4").touch()
        cut_off(write_numbered_clip(folder / "cut.mkv", EVEN))
        results = [
            run_import(
                folder,
                root=folder.parent / str(num_workers),
                fps=10,
                window_s=0.5,
                storage=storage,
                num_workers=num_workers,
            )
            for num_workers in (0, 1, 3)
        ]
        assert len({tuple(result.imported) for result in results}) == 1 and len(results[0].imported) == 8
        assert results[0].failures == results[1].failures == results[2].failures
        assert len(results[0].failures) >= 2
        assert episodes(results[0]) == episodes(results[1]) == episodes(results[2])
        files = [
            {p.relative_to(result.root): p.read_bytes() for p in result.root.rglob("*.json")}
            for result in results
        ]
        assert files[0] == files[1] == files[2]

    def test_an_interrupted_import_can_be_resumed(self, folder, monkeypatch):
        from lerobot_lara.data.video import import_video as module

        read = module.read_frames

        def interrupted(path, *, start, **options):
            if start == 1.0:
                raise KeyboardInterrupt
            yield from read(path, start=start, **options)

        monkeypatch.setattr(module, "read_frames", interrupted)
        options = {"fps": 10, "window_s": 0.5, "num_workers": 2}
        with pytest.raises(KeyboardInterrupt):
            run_import(folder, **options)
        assert load(folder.parent / "dataset").num_episodes == 2
        monkeypatch.undo()
        resumed = run_import(folder, resume=True, **options)
        assert resumed.imported[0] == "long.mp4#t=1,1.5"
        whole = run_import(folder, root=folder.parent / "whole", **options)
        assert episodes(resumed) == episodes(whole)


def test_the_command_takes_every_option(folder, capsys):
    root = folder.parent / "dataset"
    segments = folder.parent / "segments.json"
    segments.write_text(json.dumps([{"file": "long", "start": 0.5, "end": 1.5, "caption": "stir"}]))
    command = f"import-video {folder} local/clips --root={root} --storage=image --fps=5 --workers=2"
    assert main([*command.split(), f"--segments={segments}", "--strict"]) == 0
    output = capsys.readouterr().out
    assert "1 clips imported" in output and "5 frames of 32x48 (height x width) at 5 fps" in output
    assert "1 clips have no segment: phone.mp4" in output
    assert tasks(run_import(folder, fps=5, segments=segments, resume=True)) == ["stir"]

    assert main([*command.split(), "--window-s=0.9", "--overwrite"]) == 0
    output = capsys.readouterr().out
    assert "4 clips imported" in output
    assert "1 last windows were too short and left out: phone.mp4#t=0.9,1.15" in output

    assert main([*command.split(), f"--segments={segments}", "--window-s=1", "--overwrite"]) == 2
    assert "`segments` and `window_s` are both set; they exclude each other. Set" in capsys.readouterr().err
