"""The end of small pieces of work, done by one thread for all, as many at once as have come.

Dozens of threads that fetch want one interpreter lock, and each time that it goes from one to another
costs context switches (docs/design/0003). So a thread that has fetched an object hands it over and fetches
the next, and whoever lands takes all that is there: the more there is to do, the less each costs.
Ends that are long, or too many, are left to the threads that fetch, which then work side by side.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import groupby
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

log = logging.getLogger("ioaccel.engine")

# Larger blocks are worth a thread of their own: they are copied and checksummed side by side.
SMALL_BYTES = 512 << 10

# Ends that wait at most: their bytes, up to 128 MiB, are in memory.
_MOST_WAITING = 256

# What is landed at once, at most: some 10 ms of work. With a hundred threads that want the interpreter, and
# two cores, this thread has it again after as long.
_AT_ONCE = 256
_BYTES_AT_ONCE = 32 << 20

# Ends that take so long wait for a slow disk, and the others must not wait with them: they may go to
# another.
_SLOW_SECONDS = 0.5


class Landing(NamedTuple):
    """What is left to do of a piece of work, once its bytes have come.

    ``land`` ends many of them: the result of each, or its error.
    """

    land: Callable[[list[Any]], Sequence[Any]]
    what: Any
    size: int

    def alone(self) -> Any:
        """The result, or the error."""
        return land([self])[0]


def land(landings: Sequence[Landing]) -> list[Any]:
    """Ends all of them: their results, or errors."""
    outcomes: list[Any] = []
    for how, some in groupby(landings, key=lambda landing: landing.land):
        group = [landing.what for landing in some]
        try:
            outcomes += how(group)
        except Exception as error:  # noqa: BLE001  # whoever waits raises it
            outcomes += [error] * len(group)
    return outcomes


class Lander:
    """The thread, which begins with the first work. Any thread hands over."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[Landing, Callable[[Any], None]] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._begun = 0.0  # monotonic seconds, while ends are worked on

    def takes(self, landing: Landing, done: Callable[[Any], None]) -> bool:
        """Whether it sees to a landing, and calls ``done`` with its outcome; if not, the caller has to."""
        if landing.size > SMALL_BYTES or self._queue.qsize() >= _MOST_WAITING:
            return False
        begun = self._begun
        if begun and time.monotonic() - begun > _SLOW_SECONDS:
            return False
        self._queue.put((landing, done))
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
        while (first := self._queue.get()) is not None:
            self._begun = time.monotonic()
            batch = self._with_others(first)
            outcomes = land([landing for landing, _ in batch])
            for (_, done), outcome in zip(batch, outcomes, strict=True):
                try:
                    done(outcome)
                except Exception:
                    log.exception("a landing failed")
            self._begun = 0.0
            del first, batch, outcomes, done, outcome

    def _with_others(
        self, first: tuple[Landing, Callable[[Any], None]]
    ) -> list[tuple[Landing, Callable[[Any], None]]]:
        """The first, and what else has come meanwhile."""
        batch = [first]
        size = first[0].size
        with suppress(Empty):
            while len(batch) < _AT_ONCE and size < _BYTES_AT_ONCE:
                other = self._queue.get_nowait()
                if other is None:
                    self._queue.put(None)  # the end comes after these
                    break
                batch.append(other)
                size += other[0].size
        return batch
