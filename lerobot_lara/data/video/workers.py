"""Decoding several clips at once, ahead of the one that takes their frames in order."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from queue import Full, Queue

import numpy as np

MAX_BYTES_AHEAD = 64 * 2**20
"""Decoded pixels that wait for each worker: some 15 s of 224x224 at 30 Hz."""
_POLL_S = 0.1


def decode_in_order[Clip](
    clips: Iterable[Clip], read: Callable[[Clip], Iterator[np.ndarray]], *, num_workers: int, frame_bytes: int
) -> Generator[tuple[Clip, Iterator[np.ndarray]], None, None]:
    """Yields every clip with its frames, in the order of the clips whatever the number of workers.

    Workers are threads: FFmpeg and Pillow let go of Python's lock while they work. Each decodes one clip, and
    waits once `MAX_BYTES_AHEAD` of its frames have not been taken. Close the generator to stop them.

    Args:
        clips: taken from only as far as they are decoded.
        read: gives the frames of one clip; what it raises is raised where the frames are taken.
        num_workers: clips that are decoded at once; with 0, frames are decoded by their taker, when taken.
        frame_bytes: size of a frame.
    """
    if num_workers == 0:
        for clip in clips:
            yield clip, read(clip)
        return
    size = max(2, MAX_BYTES_AHEAD // frame_bytes)
    remaining = iter(clips)
    running: deque[tuple[Clip, _Decoding]] = deque()
    with ThreadPoolExecutor(num_workers, thread_name_prefix="decode") as pool:
        try:
            while True:
                for clip in islice(remaining, num_workers - len(running)):
                    decoding = _Decoding(size)
                    pool.submit(decoding.run, read, clip)
                    running.append((clip, decoding))
                if not running:
                    return
                clip, decoding = running[0]
                yield clip, decoding.frames()
                decoding.stopped.set()  # its taker is done with it, perhaps early
                running.popleft()
        finally:
            for _, decoding in running:
                decoding.stopped.set()


class _Decoding:
    """The frames of one clip on their way from a worker to their taker, followed by None or an exception."""

    def __init__(self, size: int) -> None:
        self.stopped = threading.Event()
        self._queue: Queue[np.ndarray | BaseException | None] = Queue(size)

    def run[Clip](self, read: Callable[[Clip], Iterator[np.ndarray]], clip: Clip) -> None:
        """In the worker: decodes until the clip ends or nobody wants it any more."""
        try:
            for frame in read(clip):
                if not self._put(frame):
                    return
            self._put(None)
        except BaseException as error:  # also Ctrl-C: the taker would wait for ever
            self._put(error)

    def frames(self) -> Iterator[np.ndarray]:
        """In the taker: yields the frames, and raises what the worker met."""
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def _put(self, item: np.ndarray | BaseException | None) -> bool:
        while not self.stopped.is_set():
            try:
                self._queue.put(item, timeout=_POLL_S)
                return True
            except Full:
                continue
        return False
