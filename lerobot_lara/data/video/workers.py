"""Decodes several clips at once, ahead of a consumer that takes their frames in order."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from queue import Full, Queue

import numpy as np

MAX_BYTES_AHEAD = 64 * 2**20
"""Bytes of decoded frames that may wait for each worker, about 15 s of 224x224 pixels at 30 Hz."""
_POLL_S = 0.1


def decode_in_order[Clip](
    clips: Iterable[Clip], read: Callable[[Clip], Iterator[np.ndarray]], *, num_workers: int, frame_bytes: int
) -> Generator[tuple[Clip, Iterator[np.ndarray]], None, None]:
    """Yields every clip with its frames, in the order of the clips, whatever the number of workers.

    Workers are threads, as FFmpeg and Pillow release Python's global lock while they work. Each decodes one clip, and
    waits while `MAX_BYTES_AHEAD` of its frames have not been taken. Close the generator to stop them.

    Args:
        clips: The clips; they are iterated over only as far as they are decoded.
        read: Yields the frames of a clip; an error that it raises is raised where the frames are taken.
        num_workers: Clips to decode at once; with 0, a frame is decoded when it is taken.
        frame_bytes: Size of a frame in bytes.
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
                decoding.stopped.set()  # the consumer has finished with it, perhaps early
                running.popleft()
        finally:
            for _, decoding in running:
                decoding.stopped.set()


class _Decoding:
    """The frames of one clip on their way from a worker to the consumer, followed by None or an exception.

    Args:
        size: Largest number of frames that may wait.
    """

    def __init__(self, size: int) -> None:
        self.stopped = threading.Event()
        self._queue: Queue[np.ndarray | BaseException | None] = Queue(size)

    def run[Clip](self, read: Callable[[Clip], Iterator[np.ndarray]], clip: Clip) -> None:
        """Decodes, in the worker, until the clip ends or its frames are no longer needed."""
        try:
            for frame in read(clip):
                if not self._put(frame):
                    return
            self._put(None)
        except BaseException as error:  # even Ctrl-C, as the consumer would otherwise wait forever
            self._put(error)

    def frames(self) -> Iterator[np.ndarray]:
        """Yields the frames, in the consumer, and raises an error that the worker met."""
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def _put(self, item: np.ndarray | BaseException | None) -> bool:
        """Hands an item over; False if it is no longer needed."""
        while not self.stopped.is_set():
            try:
                self._queue.put(item, timeout=_POLL_S)
                return True
            except Full:
                continue
        return False
