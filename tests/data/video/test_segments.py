import json
from pathlib import Path

import pytest

from lerobot_lara.data.video.clip import VideoClip
from lerobot_lara.data.video.segments import Segment, fit_segments, load_segments, window_segments

FILES = ["a.mp4", "day/b.mp4", "day/c.webm", "night/b.mp4"]


def clips(**durations):
    return {
        f"{name}.mp4": VideoClip(Path(name), 32, 48, 10, duration) for name, duration in durations.items()
    }


def names(segments):
    return [segment.name for segment in segments]


class TestLoading:
    ROWS = [
        Segment("a.mp4", 1.5, 3.0, "pick, then place"),
        Segment("day/c.webm", 0.0, 2.0, None),
        Segment("a.mp4", 0.0, 1.5, "wait"),
        Segment("day/b.mp4", 0.0, None, None),
    ]

    def test_csv(self, tmp_path):
        path = tmp_path / "segments.csv"
        path.write_text(
            'file,start,end,caption\na,1.5,3,"pick, then place"\nc.webm,,2,\na.mp4, 0,1.50,wait \nday/b.mp4,,,\n',
            encoding="utf-8-sig",
        )
        assert load_segments(path, FILES) == self.ROWS

    def test_json(self, tmp_path):
        path = tmp_path / "segments.json"
        rows = [
            {"file": "a", "start": 1.5, "end": 3, "caption": "pick, then place"},
            {"file": "c.webm", "end": 2},
            {"file": "a.mp4", "start": 0, "end": 1.5, "caption": "wait"},
            {"file": "day/b.mp4", "start": None},
        ]
        path.write_text(json.dumps(rows))
        assert load_segments(str(path), FILES) == load_segments(rows, FILES) == self.ROWS

    def test_names_are_media_fragments(self):
        assert names(self.ROWS) == ["a.mp4#t=1.5,3", "day/c.webm#t=0,2", "a.mp4#t=0,1.5", "day/b.mp4"]
        assert Segment("a.mp4", 3600.125).name == "a.mp4#t=3600.125"

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            (
                {"file": "a", "begin": 1},
                r"row 2 has unknown column\(s\) 'begin'; the columns must be file, start, end, cap",
            ),
            ({"start": 1}, "row 2 has no column 'file'"),
            ({"file": " "}, "row 2: `file` is ' '; it must name a video"),
            (
                {"file": "a", "start": 3, "end": 2},
                "row 2: `start` is 3; it must be before `end`, 2. Both are in seconds",
            ),
            ({"file": "a", "start": 2, "end": 2}, "row 2: `start` is 2; it must be before `end`, 2"),
            ({"file": "a", "end": 0}, "row 2: `start` is 0; it must be before `end`, 0"),
            (
                {"file": "a", "start": -1, "end": 2},
                "row 2: `start` is -1; it must be .* seconds .*, at least 0",
            ),
            ({"file": "a", "end": "-2"}, "row 2: `end` is '-2'; it must be .* seconds .*, at least 0"),
            ({"file": "a", "start": "00:01"}, "row 2: `start` is '00:01'; it must be a number of seconds"),
            ({"file": "a", "end": float("inf")}, "row 2: `end` is inf; it must be a number of seconds"),
            ({"file": "a", "start": True}, "row 2: `start` is True; it must be a number of seconds"),
            ({"file": "a", "caption": 3}, "row 2: `caption` is 3; it must be a text"),
            ({"file": "b"}, "row 2: `file` is 'b', which may be day/b.mp4 or night/b.mp4. Give the path"),
            (
                {"file": "gone.mp4"},
                r"`file` names 1 video\(s\) that are not in the folder: gone.mp4 \(row 2\). Add",
            ),
            ({"file": "a", "end": 1.0}, "row 2: a.mp4#t=0,1 is repeated. Remove one"),
            ("a.mp4", "row 2 is a str; it must be an object"),
        ],
    )
    def test_a_row_that_does_not_fit_is_named_with_its_field(self, row, message):
        with pytest.raises(ValueError, match=f"^`segments`.*{message}"):
            load_segments([{"file": "a", "end": 1}, row], FILES)

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("s.csv", "file,from,to\na,1,2\n", r"unknown column\(s\) 'from', 'to'; the columns must be"),
            ("s.csv", "a.mp4,1,2\n", r"unknown column\(s\) 'a.mp4', '1', '2'"),
            ("s.csv", "", "no column 'file'"),
            ("s.csv", "file,start\n", "holds no segment"),
            ("s.csv", "file,end,caption\na,2,one, two\n", "row 1 has more cells than columns. Put a caption"),
            ("s.json", "{", "is not JSON"),
            ("s.json", "{}", "holds a dict. It must hold"),
            ("s.json", "[]", "holds no segment"),
            ("s.tsv", "file\na\n", "ends in '.tsv'; it must end in .csv or .json"),
        ],
    )
    def test_files_that_hold_no_segments(self, tmp_path, name, text, message):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=f"{name}.* {message}"):
            load_segments(tmp_path / name, FILES)

    def test_files_that_cannot_be_read(self, tmp_path):
        with pytest.raises(ValueError, match=r"s\.csv cannot be read: No such file.*Give a CSV"):
            load_segments(tmp_path / "s.csv", FILES)
        (tmp_path / "s.csv").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ValueError, match=r"s\.csv cannot be read: .*UTF-8"):
            load_segments(tmp_path / "s.csv", FILES)


class TestFitting:
    def test_an_end_that_was_rounded_up_is_cut_and_unreadable_clips_are_left_out(self):
        segments = [Segment("a.mp4", 0.0, 2.05, "x"), Segment("broken.mp4", 0.0, 9.0), Segment("a.mp4", 1.0)]
        fitted = fit_segments(segments, clips(a=1.96))
        assert fitted == [Segment("a.mp4", 0.0, 1.96, "x"), Segment("a.mp4", 1.0)]

    @pytest.mark.parametrize(
        "segment", [Segment("a.mp4", 0.0, 2.11), Segment("a.mp4", 2.0), Segment("a.mp4", 2.0, 2.05)]
    )
    def test_beyond_the_end_is_an_error_with_the_duration(self, segment):
        with pytest.raises(
            ValueError,
            match=rf"has 1 whose `start` or `end` is beyond .*: {segment.name} \(the video is 2 s long\)",
        ):
            fit_segments([Segment("a.mp4", 0.0, 1.0), segment], clips(a=2.0))

    def test_a_video_that_does_not_tell_its_duration_is_trusted(self):
        assert fit_segments([Segment("a.mp4", 0.0, 5.0)], clips(a=None)) == [Segment("a.mp4", 0.0, 5.0)]


class TestWindows:
    def test_the_last_one_is_shorter_or_left_out(self):
        windows, skipped, failures = window_segments(clips(a=5.0, b=4.4, c=4.0, d=4.0004, e=0.5), 2.0)
        assert names(windows) == [
            "a.mp4#t=0,2",
            "a.mp4#t=2,4",
            "a.mp4#t=4,5",
            "b.mp4#t=0,2",
            "b.mp4#t=2,4",
            "c.mp4#t=0,2",
            "c.mp4#t=2,4",
            "d.mp4#t=0,2",
            "d.mp4#t=2,4",
            "e.mp4#t=0,0.5",
        ]
        assert skipped == {"b.mp4#t=4,4.4": "0.40 s long, shorter than the shortest window of 0.5 s"}
        assert not failures

    def test_windows_shorter_than_the_minimum_keep_their_length(self):
        windows, skipped, _ = window_segments(clips(a=1.0), 0.3)
        assert names(windows) == ["a.mp4#t=0,0.3", "a.mp4#t=0.3,0.6", "a.mp4#t=0.6,0.9"]
        assert skipped.keys() == {"a.mp4#t=0.9,1"}
        windows, skipped, _ = window_segments(clips(a=0.6), 0.3)
        assert names(windows) == ["a.mp4#t=0,0.3", "a.mp4#t=0.3,0.6"] and not skipped

    def test_clips_without_any_window_are_failures(self):
        windows, skipped, failures = window_segments(clips(a=0.4, b=None), 2.0)
        assert not windows and not skipped
        assert failures == {
            "a.mp4": "0.40 s long, shorter than the shortest window of 0.5 s",
            "b.mp4": "its frames have no times, so it cannot be cut into windows",
        }
