"""Single flight: whoever wants a block that is being fetched waits for that fetch.

Threads and not asyncio: obstore's synchronous form was 2 to 2.5 times as fast when it was measured.
Each endpoint has a lane of its own, with as many threads as its governor admits requests, so a slow
store never takes the threads of a fast one.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

from ioaccel.engine.landing import Lander, Landing
from ioaccel.sources.governor import Governor

# How often flights are looked at that may have to be hedged: well below what is worth hedging (0.2 s).
_WATCH_SECONDS = 0.05

# What a flight that gives up at its deadline may take to say so.
_GRACE_SECONDS = 0.1

# An idle thread costs 30 KB; it leaves after this many seconds.
_IDLE_SECONDS = 10.0


class Latch:
    """Opens when all that was counted up is counted down again; one waiter, who waits once."""

    # Two locks and not a Condition: a landing costs 0.2 us and wakes nobody but with the last one.

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 1  # the waiter's own, so that it does not open while flights are being started
        self._closed = threading.Lock()
        self._closed.acquire()

    def up(self, count: int = 1) -> None:
        with self._lock:
            self._count += count

    def down(self) -> None:
        with self._lock:
            self._count -= 1
            opens = self._count == 0
        if opens:
            self._closed.release()

    def wait(self, timeout: float) -> bool:
        """Whether it opened within ``timeout`` seconds."""
        self.down()
        return self._closed.acquire(timeout=max(timeout, 0.0))

    def wait_until(self, deadline: float) -> bool:
        """`wait`, for flights with a deadline (monotonic): one that has just given up may still tell why."""
        return self.wait(deadline + _GRACE_SECONDS - time.monotonic())


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
        self._lander = Lander()
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

        It runs in the lane of ``governor``'s endpoint, urgent work first; a `Landing` that ``work`` returns
        is the rest of it. If it takes much longer than others there, the governor may have it run once
        more, and the first to succeed counts.
        ``latch`` counts down when it has landed.
        """
        return self.start_all([(key, work)], latch, governor=governor, urgent=urgent)[0]

    def start_all(
        self,
        works: Sequence[tuple[Hashable, Callable[[], Any]]],
        latch: Latch,
        *,
        governor: Governor | None = None,
        urgent: bool = True,
    ) -> list[Flight]:
        """`start` for each ``(key, work)``, at the price of one."""
        flights: list[Flight] = []
        new: list[Flight] = []
        joined: list[tuple[Flight, Callable[[], Any]]] = []
        latch.up(len(works))
        with self._lock:
            for key, work in works:
                flight = self._flights.get(key)
                if flight is None:
                    flight = self._flights[key] = Flight(key, work)
                    new.append(flight)
                else:
                    joined.append((flight, work))
                flight.waiters.append(latch)
                flights.append(flight)
            lane = self._lanes.get(governor)
            if lane is None:
                lane = self._lanes[governor] = _Lane(governor, self._land, self._lander)
            if self._watch is None:
                self._watch = threading.Thread(target=self._hedge, name="ioaccel-hedge", daemon=True)
                self._watch.start()
        if new:
            lane.add(new, urgent)
        if joined and urgent:
            lane.hurry(joined)
        return flights

    def _land(self, flight: Flight) -> None:
        with self._lock:
            del self._flights[flight.key]
        for latch in flight.waiters:
            latch.down()

    def _hedge(self) -> None:
        """Looks for flights that take too long, as long as there are any."""
        while True:
            slept = time.monotonic()
            time.sleep(_WATCH_SECONDS)
            if time.monotonic() - slept > 3 * _WATCH_SECONDS:
                continue  # the machine stood still, and so did all flights: that is not the store's doing
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
        self._lander.close()


class _Lane:
    """The threads and the queue of one endpoint."""

    def __init__(self, governor: Governor | None, land: Callable[[Flight], None], lander: Lander) -> None:
        self._governor = governor
        self._lander = lander
        self._land = land
        self._lock = threading.Lock()
        self._work_came = threading.Condition(self._lock)
        self._urgent: deque[Flight] = deque()
        self._background: OrderedDict[Flight, None] = OrderedDict()
        self._running: set[Flight] = set()
        self._threads = 0
        self._idle = 0
        self._closed = False

    def add(self, flights: list[Flight], urgent: bool) -> None:
        with self._lock:
            if urgent:
                self._urgent.extend(flights)
            else:
                self._background.update(dict.fromkeys(flights))
            self._call_threads(len(flights))

    def _call_threads(self, count: int) -> None:
        """Sees to it that threads come for what was queued; the caller holds the lock."""
        # An idle thread that was notified counts as idle until it runs: each can take one piece of work.
        lacking = len(self._urgent) + len(self._background) - self._idle
        for _ in range(min(lacking, self._limit() - self._threads)):
            self._threads += 1
            threading.Thread(target=self._work, name="ioaccel-fetch", daemon=True).start()
        if self._idle:
            self._work_came.notify(count)

    def hurry(self, joined: list[tuple[Flight, Callable[[], Any]]]) -> None:
        """Moves work that waits in the background to the front, to be done as the urgent one would: with
        its time, and though there may be no room to keep the result."""
        with self._lock:
            for flight, work in joined:
                if flight in self._background:
                    del self._background[flight]
                    flight.work = work
                    self._urgent.append(flight)

    def hedge(self) -> None:
        """Has those run once more that take too long, as far as the governor allows."""
        slow = self._governor.slow_after() if self._governor is not None else None
        if self._governor is None or slow is None:
            return
        now = time.monotonic()
        with self._lock:
            for flight in sorted(self._running, key=lambda flight: flight.started):
                if not flight.hedged and now - flight.started > slow and self._governor.may_hedge():
                    flight.hedged = True
                    self._urgent.appendleft(flight)
                    self._call_threads(1)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._background.clear()
            self._work_came.notify_all()

    def _limit(self) -> int:
        # Work without an endpoint (a listing that drives its own requests) is rare and long.
        return int(self._governor.limit) if self._governor is not None else 64

    def _next(self) -> Flight | None:
        """The next flight, which runs from now on; None when this thread is one too many."""
        with self._lock:
            while self._threads <= self._limit():
                if self._urgent:
                    flight = self._urgent.popleft()
                elif self._background:
                    flight, _ = self._background.popitem(last=False)
                elif self._closed:
                    break
                else:
                    self._idle += 1
                    woken = self._work_came.wait(_IDLE_SECONDS)
                    self._idle -= 1
                    if not woken and not self._urgent and not self._background:
                        break
                    continue
                if flight.done:
                    continue  # the first run was faster than the hedge could begin
                flight.runs += 1
                flight.started = flight.started or time.monotonic()
                self._running.add(flight)
                return flight
            self._threads -= 1
            if self._urgent or self._background:
                self._work_came.notify()  # this one may have been woken for it: another takes it
            return None

    def _end(self, flight: Flight, result: Any, error: Exception | None) -> bool:
        """Takes note of a run's end; whether the flight has landed with it."""
        with self._lock:
            flight.runs -= 1
            if flight.done or (error is not None and flight.runs):
                return False  # the other run was faster, or may still succeed
            flight.result, flight.error, flight.done = result, error, True
            self._running.discard(flight)
            return True

    def _work(self) -> None:
        while (flight := self._next()) is not None:
            try:
                outcome = flight.work()
            except Exception as error:  # noqa: BLE001  # whoever waits raises it
                outcome = error
            if not isinstance(outcome, Landing):
                self._finish(flight, outcome)
            elif not self._lander.takes(outcome, partial(self._finish, flight)):
                self._finish(flight, outcome.alone())
            del flight, outcome

    def _finish(self, flight: Flight, outcome: Any) -> None:
        """Takes note of the end of a run: its result, or its error."""
        error = outcome if isinstance(outcome, Exception) else None
        if self._end(flight, None if error is not None else outcome, error):
            self._land(flight)
