import threading
import time
from contextlib import closing

import numpy as np
import pytest

from lerobot_lara.data.video import workers as video_workers
from lerobot_lara.data.video.workers import decode_in_order

# Workers that never end cannot be interrupted: a test that hangs ends its whole process, and fails.
pytestmark = pytest.mark.timeout(60, method="thread")


def read(clip):
    """Clip n has n frames of value n; earlier clips are slower."""
    for _ in range(clip):
        time.sleep(0.002 / clip)
        yield np.full(4, clip)


def taken(clips, num_workers, read=read):
    return [
        (clip, [int(frame[0]) for frame in frames])
        for clip, frames in decode_in_order(clips, read, num_workers=num_workers, frame_bytes=4)
    ]


@pytest.mark.parametrize("num_workers", [0, 1, 3, 20])
def test_frames_come_in_order_whatever_the_number_of_workers(num_workers):
    clips = [3, 1, 0, 5, 2, 4, 1]
    assert taken(clips, num_workers) == [(clip, [clip] * clip) for clip in clips]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_is_raised_where_its_clip_is_taken(num_workers):
    def fail_at_two(clip):
        yield from read(clip)
        if clip == 2:
            raise ValueError("broken")

    with closing(decode_in_order([1, 2, 3], fail_at_two, num_workers=num_workers, frame_bytes=4)) as decoded:
        assert len(list(next(decoded)[1])) == 1
        with pytest.raises(ValueError, match="broken"):
            list(next(decoded)[1])
        assert len(list(next(decoded)[1])) == 3


def test_clips_are_decoded_at_the_same_time():
    barrier = threading.Barrier(3, timeout=10)

    def meet(clip):
        barrier.wait()
        yield np.full(4, clip)

    assert taken([1, 2, 3], 3, meet) == [(clip, [clip]) for clip in (1, 2, 3)]


def test_workers_wait_when_frames_are_not_taken(monkeypatch):
    monkeypatch.setattr(video_workers, "MAX_BYTES_AHEAD", 5 * 4)
    decoded = [0, 0]

    def long(clip):
        for _ in range(1000):
            decoded[clip] += 1
            yield np.full(4, clip)

    with closing(decode_in_order([0, 1], long, num_workers=2, frame_bytes=4)) as generator:
        _, frames = next(generator)
        next(frames)
        time.sleep(0.3)
        assert decoded[0] <= 8 and decoded[1] <= 7


def num_decoding_threads():
    return sum(thread.name.startswith("decode") for thread in threading.enumerate())


def test_workers_end_when_their_frames_are_not_wanted_any_more(monkeypatch):
    monkeypatch.setattr(video_workers, "MAX_BYTES_AHEAD", 4)
    with closing(decode_in_order(iter([50] * 9), read, num_workers=3, frame_bytes=4)) as generator:
        next(next(generator)[1])
        next(generator)
        assert num_decoding_threads() == 3
    assert num_decoding_threads() == 0
