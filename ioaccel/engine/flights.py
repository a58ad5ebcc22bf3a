"""Single flight: whoever wants a block that is being fetched waits for that fetch.

Threads and not asyncio: obstore's synchronous form is 2 to 2.5 times as fast (DESIGN.md, figures).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

# More threads than any governor admits requests: two endpoints at full speed.
MAX_THREADS = 384
# An idle thread costs 30 KB; it leaves after this many seconds.
_IDLE_SECONDS = 10.0


class Latch:
    """Counts down to zero; one waiter, any number of counters."""

    def __init__(self) -> None:
        self._zero = threading.Condition()
        self._count = 0

    def up(self) -> None:
        with self._zero:
            self._count += 1

    def down(self) -> None:
        with self._zero:
            self._count -= 1
            if self._count == 0:
                self._zero.notify_all()

    def wait(self, timeout: float) -> bool:
        """Whether zero was reached within ``timeout`` seconds."""
        with self._zero:
            return self._zero.wait_for(lambda: self._count == 0, max(timeout, 0.0))


class Flight:
    """One piece of work under way: ``result`` or ``error`` once it is done."""

    __slots__ = ("_waiters", "done", "error", "result")

    def __init__(self) -> None:
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None
        self._waiters: list[Latch] = []

    def value(self) -> Any:
        """The result, or raises the error."""
        if self.error is not None:
            raise self.error
        return self.result


class Flights:
    """Runs work in threads, one flight a key. Work that somebody waits for goes first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._flights: dict[Hashable, Flight] = {}
        self._urgent: deque[tuple[Hashable, Flight, Callable[[], Any]]] = deque()
        self._background: deque[tuple[Hashable, Flight, Callable[[], Any]]] = deque()
        self._threads = 0
        self._idle = 0
        self._closed = False

    def start(
        self, key: Hashable, work: Callable[[], Any], latch: Latch | None, *, urgent: bool = True
    ) -> Flight:
        """The flight of ``key``: the one under way, or a new one that does ``work``.

        ``latch`` counts down when it has landed.
        """
        with self._changed:
            flight = self._flights.get(key)
            if flight is None:
                flight = self._flights[key] = Flight()
                (self._urgent if urgent else self._background).append((key, flight, work))
                if self._idle:
                    self._changed.notify()
                elif self._threads < MAX_THREADS:
                    self._threads += 1
                    threading.Thread(target=self._work, name="ioaccel-fetch", daemon=True).start()
            elif urgent:
                self._hurry(key)
            if latch is not None:
                latch.up()
                flight._waiters.append(latch)
            return flight

    def _hurry(self, key: Hashable) -> None:
        """Moves work that was started in the background to the front."""
        if self._background:
            for job in self._background:
                if job[0] == key:
                    self._background.remove(job)
                    self._urgent.append(job)
                    return

    def _next(self) -> tuple[Hashable, Flight, Callable[[], Any]] | None:
        with self._changed:
            while not self._urgent and not self._background:
                if self._closed:
                    return None
                self._idle += 1
                woken = self._changed.wait(_IDLE_SECONDS)
                self._idle -= 1
                if not woken and not self._urgent and not self._background:
                    self._threads -= 1
                    return None
            return (self._urgent or self._background).popleft()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            key, flight, work = job
            try:
                flight.result = work()
            except Exception as error:
                flight.error = error
            del work, job
            with self._changed:
                del self._flights[key]
                flight.done = True
                waiters, flight._waiters = flight._waiters, []
            for latch in waiters:
                latch.down()

    def waiting(self) -> int:
        """How many pieces of work are under way or wait for a thread."""
        with self._changed:
            return len(self._flights)

    def close(self) -> None:
        """Lets idle threads go; work that is under way ends with the process."""
        with self._changed:
            self._closed = True
            self._background.clear()
            self._changed.notify_all()
