import itertools
from fractions import Fraction

import numpy as np
import pytest
from support.videos import (
    BLUE,
    GREEN,
    GREY,
    RED,
    assert_colors,
    corners,
    cut_off,
    damage,
    numbers,
    rotate_by_metadata,
    write_clip,
    write_noise,
    write_numbered_clip,
)

from lerobot_lara.data.video import decode as video_decode
from lerobot_lara.data.video.clip import probe_clip, read_frames
from lerobot_lara.data.video.decode import UnreadableClipError

QUARTERS = {(-1, -1): RED, (1, -1): GREEN, (1, 1): GREY, (-1, 1): BLUE}
"""Clockwise from the top left, with places seen from the center."""


class TestClips:
    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("clip.mp4", {"codec": "libx264"}),
            ("clip.avi", {}),
            ("clip.mov", {}),
            ("clip.mkv", {"codec": "libx264"}),
            ("clip.webm", {"codec": "libvpx-vp9"}),
            ("clip.gif", {"codec": "gif", "pix_fmt": "rgb8"}),
        ],
    )
    def test_every_container_gives_its_frames(self, tmp_path, name, options):
        path = write_clip(tmp_path / name, **options)
        clip = probe_clip(path)
        assert (clip.height, clip.width, clip.fps) == (48, 64, 10)
        images = list(read_frames(path))
        assert len(images) == 6
        if name != "clip.gif":  # 256 colors
            assert_colors(corners(images[-1]), RED, GREEN, GREY, BLUE)

    @pytest.mark.parametrize("color", [(1, 1), (5, 1), (5, 2)], ids=["BT.709", "BT.601", "BT.601 full range"])
    def test_colors_are_right_in_every_color_space(self, tmp_path, color):
        (image, *_) = read_frames(write_clip(tmp_path / "clip.webm", codec="libvpx-vp9", color=color))
        np.testing.assert_allclose(np.stack(corners(image)), [RED, GREEN, GREY, BLUE], atol=5)

    def test_rotated_phone_videos_are_turned_upright(self, tmp_path):
        path = rotate_by_metadata(write_clip(tmp_path / "clip.mp4"))
        clip = probe_clip(path)
        assert (clip.height, clip.width) == (64, 48)
        assert_colors(corners(next(read_frames(path))), BLUE, RED, GREEN, GREY)
        assert_colors(corners(next(read_frames(path, start=0.4))), BLUE, RED, GREEN, GREY)

    @pytest.mark.parametrize(
        "turn",
        [*itertools.product((1, -1), (0,), (0,), (1, -1)), *itertools.product((0,), (1, -1), (1, -1), (0,))],
    )
    def test_mirrored_and_turned_videos_are_shown_as_players_show_them(self, tmp_path, turn):
        path = rotate_by_metadata(write_clip(tmp_path / "clip.mp4"), turn)
        clip, image = probe_clip(path), next(read_frames(path))
        width, height = (64, 48) if turn[0] else (48, 64)
        assert (clip.width, clip.height) == image.size == (width, height)
        # What is to the left and right of the center, and above and below it, by the definition of the matrix.
        a, b, c, d = turn
        shown = {(a * x + c * y, b * x + d * y): color for (x, y), color in QUARTERS.items()}
        assert_colors(corners(image), *(shown[place] for place in QUARTERS))

    @pytest.mark.parametrize(
        ("pixel_aspect", "size"),
        [((32, 27), (76, 48)), ((1, 2), (64, 96)), ((1, 1), (64, 48)), ((200, 1), (64, 48))],
    )
    def test_pixels_that_are_not_square_are_made_so(self, tmp_path, pixel_aspect, size):
        path = write_clip(tmp_path / "clip.mp4", codec="libx264", pixel_aspect=Fraction(*pixel_aspect))
        clip, image = probe_clip(path), next(read_frames(path))
        assert (clip.width, clip.height) == image.size == size
        assert_colors(corners(image), RED, GREEN, GREY, BLUE)
        if size[0] == 76:
            turned = next(read_frames(rotate_by_metadata(path)))
            assert turned.size == (48, 76)

    def test_a_file_that_ends_early_yields_its_frames_and_then_raises(self, tmp_path):
        path = cut_off(write_clip(tmp_path / "clip.mkv", num_frames=30))
        frames = read_frames(path)
        next(frames)
        with pytest.raises(UnreadableClipError, match=r"cut off: only \d\.\d\d s of 3\.00 s can be decoded"):
            list(frames)

    def test_damage_in_the_middle_raises(self, tmp_path):
        path = cut_off(
            write_clip(tmp_path / "clip.mp4", num_frames=30, codec="libx264", movflags="faststart")
        )
        with pytest.raises(UnreadableClipError, match=r"cannot be decoded beyond|cut off"):
            list(read_frames(path))

    def test_frames_that_the_decoder_had_to_fill_in_raise(self, tmp_path):
        with pytest.raises(UnreadableClipError, match=r"damaged at \d\.\d\d s"):
            list(read_frames(damage(write_noise(tmp_path / "clip.avi"))))


UNEVEN_MS = [0, 40, 80, 200, 240, 500, 520, 540, 900, 1000]
CONTAINERS = [
    ("clip.mp4", "libx264"),
    ("clip.mkv", "libx264"),
    ("clip.ts", "libx264"),
    ("clip.mov", "mpeg4"),
    ("clip.webm", "libvpx-vp9"),
]


@pytest.mark.parametrize(("name", "codec"), CONTAINERS)
class TestTimes:
    """Frames of variable rate, in containers that index, order and time them differently."""

    @pytest.mark.parametrize("fps", [3, 10, 24, 60])
    def test_resampling_takes_the_frame_that_is_shown_at_each_time(self, tmp_path, name, codec, fps):
        path = write_numbered_clip(tmp_path / name, UNEVEN_MS, codec=codec)
        frames = numbers(read_frames(path, fps=fps))
        shown = [sum(start <= 1000 * k / fps for start in UNEVEN_MS) - 1 for k in range(len(frames))]
        assert frames == shown
        assert len(frames) / fps + 1e-6 > 1.0 and (len(frames) - 1) / fps < 1.1

    @pytest.mark.parametrize(("start", "end"), [(0.0, 0.5), (0.1, 0.9), (0.5, 0.9), (0.53, None), (0.9, 1.0)])
    def test_a_span_of_time_is_the_same_whether_sought_or_decoded_up_to(
        self, tmp_path, name, codec, start, end
    ):
        path = write_numbered_clip(tmp_path / name, UNEVEN_MS, codec=codec)
        stop = 1.0001 if end is None else end
        inside = [k for k, time in enumerate(UNEVEN_MS) if start <= time / 1000 < stop]
        assert numbers(read_frames(path, start=start, end=end)) == inside
        times = [k for k in range(100) if start + k / 10 < stop - 1e-6]
        shown = [sum(time <= 1000 * (start + k / 10) + 1e-6 for time in UNEVEN_MS) - 1 for k in times]
        assert numbers(read_frames(path, start=start, end=end, fps=10))[: len(times)] == shown

    def test_the_duration_reaches_to_the_end_of_the_last_frame(self, tmp_path, name, codec):
        clip = probe_clip(write_numbered_clip(tmp_path / name, UNEVEN_MS, codec=codec))
        assert 1.0 < clip.duration <= 1.1

    def test_a_last_frame_that_stays_is_not_a_file_that_was_cut_off(self, tmp_path, name, codec):
        path = write_numbered_clip(tmp_path / name, [0, 40, 80, 120, 160, 200], codec=codec, last_ms=2000)
        assert numbers(read_frames(path)) == [0, 1, 2, 3, 4, 5]
        if name != "clip.ts":  # has no durations
            assert numbers(read_frames(path, fps=10)) == [0, 2, *[5] * 20]

    def test_uneven_frames_are_noticed(self, tmp_path, name, codec):
        path = write_numbered_clip(tmp_path / name, UNEVEN_MS, codec=codec)
        frames = read_frames(path, constant_rate=True)
        assert numbers([next(frames), next(frames), next(frames)]) == [0, 1, 2]
        with pytest.raises(
            UnreadableClipError, match=r"frames are 40 to 120 ms apart at 0\.20 s\. Set `fps`"
        ):
            next(frames)


@pytest.mark.parametrize("rate", [24, 30, 60, Fraction(30000, 1001)])
def test_rounded_timestamps_neither_count_as_uneven_nor_shift_a_frame(tmp_path, rate):
    times = [round(1000 * k / rate) for k in range(20)]
    path = write_numbered_clip(tmp_path / "clip.webm", times, codec="libvpx-vp9", last_ms=round(1000 / rate))
    assert numbers(read_frames(path, constant_rate=True)) == list(range(20))
    if rate == int(rate):
        assert numbers(read_frames(path, fps=rate)) == list(range(20))
        assert numbers(read_frames(path, fps=rate // 2)) == list(range(0, 20, 2))
        assert numbers(read_frames(path, fps=2 * rate)) == [k // 2 for k in range(40)]


def test_a_file_that_does_not_start_at_zero_is_timed_from_its_first_frame(tmp_path):
    path = write_numbered_clip(tmp_path / "clip.mkv", [5000 + 100 * k for k in range(10)])
    assert probe_clip(path).duration == pytest.approx(1.0)
    assert numbers(read_frames(path, start=0.3, end=0.6)) == [3, 4, 5]
    assert numbers(read_frames(path, fps=5)) == [0, 2, 4, 6, 8]


def test_what_cannot_be_sought_is_decoded_from_the_beginning(tmp_path, monkeypatch):
    path = write_numbered_clip(tmp_path / "clip.mkv", [100 * k for k in range(10)])
    decode = video_decode._decode

    def without_start(path, *, seek, **options):
        return (timed for timed in decode(path, seek=None, **options) if not seek or timed.start > seek)

    monkeypatch.setattr(video_decode, "_decode", without_start)
    assert numbers(read_frames(path, start=0.3, end=0.6)) == [3, 4, 5]
