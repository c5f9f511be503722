import os

import pytest
from support.videos import write_clip, write_numbered_clip

from lerobot_lara.data.video.folder import common_fps, find_clips, leave_out_variable_rates, probe_clips

PHONE = [0, 33, 67, 133, 167, 200, 267, 300]


class TestFindClips:
    def test_hidden_folders_are_ignored_and_linked_ones_followed_once(self, tmp_path):
        folder, elsewhere = tmp_path / "clips", tmp_path / "elsewhere"
        for path in (folder / "a.mp4", folder / ".git" / "b.mp4", elsewhere / "c.mp4", elsewhere / ".d.mp4"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (folder / "linked").symlink_to(elsewhere)
        (elsewhere / "back").symlink_to(folder)
        (folder / "e.mp4").symlink_to(elsewhere / "c.mp4")
        clips, others = find_clips(folder)
        assert list(clips) == ["a.mp4", "e.mp4", "linked/c.mp4"] and others == []

    def test_a_broken_link_is_reported(self, tmp_path):
        (tmp_path / "gone.mp4").symlink_to("nowhere.mp4")
        clips, failures = probe_clips(find_clips(tmp_path)[0])
        assert not clips and failures == {"gone.mp4": "a link to nowhere.mp4, which does not exist"}

    def test_a_pipe_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.mp4")
        (tmp_path / "a.mp4").touch()
        assert list(find_clips(tmp_path)[0]) == ["a.mp4"]


class TestRates:
    @pytest.fixture
    def folder(self, tmp_path):
        write_numbered_clip(tmp_path / "phone.mp4", PHONE)
        write_clip(tmp_path / "still.mp4", num_frames=1, fps=25)
        return tmp_path

    def test_a_variable_rate_and_a_still_picture_are_left_out(self, folder):
        for name in ("a", "b"):
            write_clip(folder / f"{name}.mp4", fps=10)
        clips, failures = probe_clips(find_clips(folder)[0])
        leave_out_variable_rates(clips, failures)
        assert list(clips) == ["a.mp4", "b.mp4"] and common_fps(clips.values()) == 10
        assert failures["phone.mp4"].startswith("variable frame rate: frames are 33 to 66 ms apart at 0.13 s")
        assert failures["still.mp4"] == "a single frame: nothing moves"

    def test_even_if_they_are_the_most(self, folder):
        write_numbered_clip(folder / "phone2.mp4", PHONE)
        write_clip(folder / "a.mp4", fps=10)
        clips, failures = probe_clips(find_clips(folder)[0])
        leave_out_variable_rates(clips, failures)
        assert list(clips) == ["a.mp4"] and len(failures) == 3

    def test_clips_of_different_constant_rates_stay_and_are_named(self, tmp_path):
        for name, fps in (("a", 10), ("b", 10), ("c", 25)):
            write_clip(tmp_path / f"{name}.mp4", fps=fps)
        clips, failures = probe_clips(find_clips(tmp_path)[0])
        leave_out_variable_rates(clips, failures)
        assert len(clips) == 3 and not failures
        with pytest.raises(ValueError, match=r"10 \(2 .*such as a\.mp4\), 25 \(1 .*such as c\.mp4\)"):
            common_fps(clips.values())
