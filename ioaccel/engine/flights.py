"""Single flight: whoever wants a block that is being fetched waits for that fetch.

Threads and not asyncio: obstore's synchronous form was 2 to 2.5 times as fast when it was measured.
Each endpoint has a lane of its own, with as many threads as its governor admits requests, so a slow
store never takes the threads of a fast one.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

from ioaccel.sources.governor import Governor

# How often flights are looked at that may have to be hedged: well below what is worth hedging.
_WATCH_SECONDS = 0.01

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
    """One piece of work under way: ``result`` or ``error`` once it is ``done``."""

    __slots__ = ("done", "error", "hedged", "key", "result", "runs", "started", "waiters", "work")

    def __init__(self, key: Hashable, work: Callable[[], Any]) -> None:
        self.key = key
        self.work = work
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None
        self.waiters: list[Latch] = []
        self.started = 0.0  # monotonic seconds; 0 while it waits for a thread
        self.runs = 0  # threads that do the work: two, once it is hedged
        self.hedged = False

    def value(self) -> Any:
        """The result, or raises the error."""
        if self.error is not None:
            raise self.error
        return self.result


class Flights:
    """All work under way, one flight a key. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[Hashable, Flight] = {}
        self._lanes: dict[Governor | None, _Lane] = {}
        self._watch: threading.Thread | None = None
        self._closed = False

    def start(
        self,
        key: Hashable,
        work: Callable[[], Any],
        latch: Latch,
        *,
        governor: Governor | None = None,
        urgent: bool = True,
    ) -> Flight:
        """The flight of ``key``: the one under way, or a new one that does ``work``.

        It runs in the lane of ``governor``'s endpoint, urgent work first. If it takes much longer than
        others there, the governor may have it run once more, and the first to succeed counts.
        ``latch`` counts down when it has landed.
        """
        with self._lock:
            flight = self._flights.get(key)
            new = flight is None
            if flight is None:
                flight = self._flights[key] = Flight(key, work)
            latch.up()
            flight.waiters.append(latch)
            lane = self._lanes.get(governor)
            if lane is None:
                lane = self._lanes[governor] = _Lane(governor, self._land)
            if self._watch is None:
                self._watch = threading.Thread(target=self._hedge, name="ioaccel-hedge", daemon=True)
                self._watch.start()
        if new:
            lane.add(flight, urgent)
        elif urgent:
            lane.hurry(flight)
        return flight

    def _land(self, flight: Flight) -> None:
        with self._lock:
            del self._flights[flight.key]
        for latch in flight.waiters:
            latch.down()

    def _hedge(self) -> None:
        """Looks for flights that take too long, as long as there are any."""
        while True:
            time.sleep(_WATCH_SECONDS)
            with self._lock:
                if not self._flights or self._closed:
                    self._watch = None
                    return
                lanes = list(self._lanes.values())
            for lane in lanes:
                lane.hedge()

    def close(self) -> None:
        """Lets idle threads go; work that is under way ends with the process."""
        with self._lock:
            self._closed = True
            for lane in self._lanes.values():
                lane.close()


class _Lane:
    """The threads and the queue of one endpoint."""

    def __init__(self, governor: Governor | None, land: Callable[[Flight], None]) -> None:
        self._governor = governor
        self._land = land
        self._changed = threading.Condition()
        self._urgent: deque[Flight] = deque()
        self._background: deque[Flight] = deque()
        self._running: set[Flight] = set()
        self._threads = 0
        self._idle = 0
        self._closed = False

    def add(self, flight: Flight, urgent: bool) -> None:
        with self._changed:
            (self._urgent if urgent else self._background).append(flight)
            self._call_thread()

    def _call_thread(self) -> None:
        """Sees to it that a thread comes for what was queued; the caller holds the lock."""
        # An idle thread that was notified counts as idle until it runs: each can take one piece of work.
        if len(self._urgent) + len(self._background) > self._idle and self._threads < self._limit():
            self._threads += 1
            threading.Thread(target=self._work, name="ioaccel-fetch", daemon=True).start()
        else:
            self._changed.notify()

    def hurry(self, flight: Flight) -> None:
        """Moves work that was started in the background to the front."""
        with self._changed:
            if flight in self._background:
                self._background.remove(flight)
                self._urgent.append(flight)

    def hedge(self) -> None:
        """Has those run once more that take too long, as far as the governor allows."""
        slow = self._governor.slow_after() if self._governor is not None else None
        if self._governor is None or slow is None:
            return
        now = time.monotonic()
        with self._changed:
            for flight in self._running:
                if not flight.hedged and now - flight.started > slow and self._governor.may_hedge():
                    flight.hedged = True
                    self._urgent.appendleft(flight)
                    self._call_thread()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._background.clear()
            self._changed.notify_all()

    def _limit(self) -> int:
        # Work without an endpoint (a listing that drives its own requests) is rare and long.
        return int(self._governor.limit) if self._governor is not None else 64

    def _next(self) -> Flight | None:
        """The next flight; None when this thread is one too many."""
        with self._changed:
            while self._threads <= self._limit():
                if self._urgent:
                    return self._urgent.popleft()
                if self._background:
                    return self._background.popleft()
                if self._closed:
                    break
                self._idle += 1
                woken = self._changed.wait(_IDLE_SECONDS)
                self._idle -= 1
                if not woken and not self._urgent and not self._background:
                    break
            self._threads -= 1
            if self._urgent or self._background:
                self._changed.notify()  # this one may have been woken for it: another takes it
            return None

    def _work(self) -> None:
        while (flight := self._next()) is not None:
            with self._changed:
                beaten: bool = flight.done
                if beaten:
                    continue  # the first run was faster than the hedge could begin
                flight.runs += 1
                flight.started = flight.started or time.monotonic()
                self._running.add(flight)
            result: Any = None
            error: Exception | None = None
            try:
                result = flight.work()
            except Exception as failure:  # noqa: BLE001  # whoever waits raises it
                error = failure
            with self._changed:
                flight.runs -= 1
                beaten = flight.done
                if beaten or (error is not None and flight.runs):
                    continue  # the other run was faster, or may still succeed
                flight.result, flight.error, flight.done = result, error, True
                self._running.discard(flight)
            self._land(flight)
            del flight, result, error
