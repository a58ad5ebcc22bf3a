"""Prefetches in the background: a window over all that was asked for, in the order it was asked for.

A loader asks batch by batch, dozens of batches ahead. Messages are cut into waves, or put together where
they are small, and as many waves are on their way at once as there are threads here: when one has landed the
next one leaves, so the store always has enough to do and nothing waits for the slowest of a message.
Sessions take turns. The queue of a session that has left is dropped, and so is what a plan has asked for
when its next round begins.

Once the cache is full, what was asked for without a plan is dropped. Of a plan, waves are smaller, and
leave as far ahead of the job as there is memory for them (`ioaccel.engine.passing`).
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from ioaccel import wire
from ioaccel.engine.passing import Passing

# Extents of one wave, and waves on their way: 512 together, twice what a governor ever admits, so that
# a wave whose last extent is slow leaves the others enough to fill it.
WAVE = 64
_WAVES = 8
# Of a wave that passes by a full cache: 128 together, what a store with 20 ms to the first byte gains from.
_PASSING_WAVE = 16

# How soon it is looked again whether there is memory.
_LOOK_SECONDS = 0.01


class Prefetches:
    """The queues of all sessions, and the threads that work them off. Any thread."""

    def __init__(
        self,
        settle: Callable[[wire.Prefetch, list[wire.Extent], float], bool],
        live: Callable[[], frozenset[str]],
        passing: Passing,
    ) -> None:
        """``settle`` brings a message's extents, asked for at a (monotonic) time, into the cache and says
        whether there was room for all; ``live`` names the sessions whose clients are there."""
        self._settle = settle
        self._live = live
        self._passing = passing
        self._lock = threading.Lock()
        self._came = threading.Condition(self._lock)
        self._queues: OrderedDict[str, deque[_Rest]] = OrderedDict()  # whose turn it is first
        self._full: set[str] = set()  # sessions for whose last wave the cache had no room
        self._rounds: dict[tuple[str, str], int] = {}  # of each session's plans
        self._threads = 0
        self._idle = 0
        self._looks = False  # a thread looks now and then whether there is memory
        self._closed = False

    def add(self, request: wire.Prefetch) -> None:
        """Queues a message behind all others of its session."""
        with self._lock:
            queue = self._queues.setdefault(request.session, deque())
            if request.plan is not None:
                self._replan(queue, request.session, *request.plan)
            queue.append(_Rest(request))
            self._call_thread()

    def _replan(self, queue: deque[_Rest], session: str, plan: str, number: int) -> None:
        """Forgets what earlier rounds of a plan asked for; the caller holds the lock."""
        if self._rounds.get((session, plan), number) < number:
            for rest in queue:
                if rest.request.plan is not None and rest.request.plan[0] == plan:
                    rest.end()
            self._passing.replan(session, plan)
        self._rounds[session, plan] = number

    def _call_thread(self) -> None:
        """Sees to it that a thread comes for the next wave; the caller holds the lock."""
        if self._idle:
            self._came.notify()
        elif self._threads < _WAVES:
            self._threads += 1
            threading.Thread(target=self._work, name="ioaccel-prefetch", daemon=True).start()

    def close(self) -> None:
        """Drops what is queued, and lets the threads go."""
        with self._lock:
            self._closed = True
            self._queues.clear()
            self._came.notify_all()

    def _work(self) -> None:
        while (wave := self._next()) is not None:
            rests, extents = wave
            request = rests[0].request
            fits = self._settle(request, extents, rests[0].asked)
            with self._lock:
                if fits:
                    self._full.discard(request.session)
                else:
                    self._full.add(request.session)
                    for rest in rests if request.plan is None else []:
                        rest.end()  # what came now would be fetched again when it is read

    def _whose_turn(self) -> tuple[str, int] | None:
        """A session, and how many extents of it may leave; the caller holds the lock."""
        for session, queue in self._queues.items():
            if session not in self._full or queue[0].request.plan is None:
                return session, WAVE
            if self._passing.room():
                return session, _PASSING_WAVE
        return None

    def _wait(self) -> None:
        """Until something is asked for, or may have found memory; the caller holds the lock."""
        looks = bool(self._queues) and not self._looks
        if looks:
            self._looks = True
        self._idle += 1
        self._came.wait(_LOOK_SECONDS if looks else None)
        self._idle -= 1
        if looks:
            self._looks = False

    def _forget(self, session: str) -> None:
        """One that has left; the caller holds the lock."""
        self._queues.pop(session, None)
        self._full.discard(session)
        for plan in [plan for plan in self._rounds if plan[0] == session]:
            del self._rounds[plan]

    def _next(self) -> tuple[list[_Rest], list[wire.Extent]] | None:
        """The next wave, and the messages it is of, once there is one; None at the end."""
        with self._lock:
            while not self._closed:
                live = self._live()
                known = {*self._queues, *self._full, *(session for session, _ in self._rounds)}
                for session in known - live:
                    self._forget(session)
                turn = self._whose_turn()
                if turn is None:
                    self._wait()
                    continue
                session, most = turn
                queue = self._queues[session]
                rests: list[_Rest] = []
                extents: list[wire.Extent] = []
                while queue and len(extents) < most and (not rests or rests[0].goes_with(queue[0])):
                    rests.append(queue[0])
                    extents += queue[0].take(most - len(extents))
                    if queue[0].empty:
                        queue.popleft()
                self._queues.move_to_end(session)
                if not queue:
                    del self._queues[session]
                if self._queues:
                    self._call_thread()  # a message of many waves called one thread
                if extents:
                    return rests, extents
            return None


class _Rest:
    """What is left to do of one message."""

    __slots__ = ("_at", "asked", "request")

    def __init__(self, request: wire.Prefetch) -> None:
        self.request = request
        self.asked = time.monotonic()
        self._at = 0

    @property
    def empty(self) -> bool:
        return self._at >= len(self.request.extents)

    def goes_with(self, other: _Rest) -> bool:
        """Whether the extents of both may be one wave: they are asked for in the same way."""
        one, two = self.request, other.request
        return (one.sources, one.oldest_ms, one.timeout, one.plan) == (
            two.sources,
            two.oldest_ms,
            two.timeout,
            two.plan,
        )

    def take(self, count: int) -> list[wire.Extent]:
        """So many of those that are left."""
        extents = self.request.extents[self._at : self._at + count]
        self._at += count
        return extents

    def end(self) -> None:
        """There is nothing left to do."""
        self._at = len(self.request.extents)
