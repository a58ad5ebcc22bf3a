"""The end of small pieces of work, done by one thread for all.

Dozens of threads that fetch want one interpreter lock, and each time that it goes from one to another
costs context switches: 14 an object, and 10 when this part is handed over (docs/design/0003). So a thread
that has fetched an object hands it over and fetches the next.
Ends that are long, or too many, are left to the threads that fetch, which then work side by side.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

log = logging.getLogger("ioaccel.engine")

# Larger blocks are worth a thread of their own: they are copied and checksummed side by side.
SMALL_BYTES = 512 << 10

# Ends that wait at most: their bytes, up to 128 MiB, are in memory.
_MOST_WAITING = 256

# An end that takes so long waits for a slow disk, and the others must not wait with it: they may go to
# another.
_SLOW_SECONDS = 0.05


class Landing:
    """What is left to do of a piece of work, once its bytes have come."""

    __slots__ = ("end", "size")

    def __init__(self, end: Callable[[], Any], size: int) -> None:
        self.end = end
        self.size = size


class Lander:
    """The thread, which begins with the first work. Any thread hands over."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._begun = 0.0  # monotonic seconds, while an end is worked on

    def takes(self, landing: Landing, work: Callable[[], object]) -> bool:
        """Whether it does ``work`` for a landing; if not, the caller has to."""
        if landing.size > SMALL_BYTES or self._queue.qsize() >= _MOST_WAITING:
            return False
        begun = self._begun
        if begun and time.monotonic() - begun > _SLOW_SECONDS:
            return False
        self._queue.put(work)
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="ioaccel-land", daemon=True)
                    self._thread.start()
        return True

    def close(self) -> None:
        """The thread ends after what it was given."""
        self._queue.put(None)

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            self._begun = time.monotonic()
            try:
                work()
            except Exception:
                log.exception("a landing failed")
            self._begun = 0.0
            del work
