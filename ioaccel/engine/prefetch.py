"""Prefetches in the background: a window over all that was asked for, in the order it was asked for.

A loader asks batch by batch, dozens of batches ahead. Messages are cut into waves, or put together where
they are small, and as many waves are on their way at once as there are threads here: when one has landed the
next one leaves, so the store always has enough to do and nothing waits for the slowest of a message.
Sessions take turns. The queue of a session that has left is dropped.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable

from ioaccel import wire

# Extents of one wave, and waves on their way: 512 together, twice what a governor ever admits, so that
# a wave whose last extent is slow leaves the others enough to fill it.
WAVE = 64
_WAVES = 8


class Prefetches:
    """The queues of all sessions, and the threads that work them off. Any thread."""

    def __init__(
        self, settle: Callable[[wire.Prefetch, list[wire.Extent]], bool], live: Callable[[], frozenset[str]]
    ) -> None:
        """``settle`` brings a message's extents into the cache and says whether there was room for all;
        ``live`` names the sessions whose clients are there."""
        self._settle = settle
        self._live = live
        self._lock = threading.Lock()
        self._came = threading.Condition(self._lock)
        self._queues: OrderedDict[str, deque[_Rest]] = OrderedDict()  # whose turn it is first
        self._threads = 0
        self._idle = 0
        self._closed = False

    def add(self, request: wire.Prefetch) -> None:
        """Queues a message behind all others of its session."""
        with self._lock:
            self._queues.setdefault(request.session, deque()).append(_Rest(request))
            self._call_thread()

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
            if not self._settle(rests[0].request, extents):
                for rest in rests:
                    rest.end()  # full: what came now would be fetched again when it is read

    def _next(self) -> tuple[list[_Rest], list[wire.Extent]] | None:
        """The next wave, and the messages it is of, once there is one; None at the end."""
        with self._lock:
            while not self._closed:
                live = self._live()
                for session in [s for s in self._queues if s not in live]:
                    del self._queues[session]  # whoever asked for it is gone
                if not self._queues:
                    self._idle += 1
                    self._came.wait()
                    self._idle -= 1
                    continue
                session, queue = next(iter(self._queues.items()))
                rests: list[_Rest] = []
                extents: list[wire.Extent] = []
                while queue and len(extents) < WAVE and (not rests or rests[0].goes_with(queue[0])):
                    rests.append(queue[0])
                    extents += queue[0].take(WAVE - len(extents))
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

    __slots__ = ("_at", "request")

    def __init__(self, request: wire.Prefetch) -> None:
        self.request = request
        self._at = 0

    @property
    def empty(self) -> bool:
        return self._at >= len(self.request.extents)

    def goes_with(self, other: _Rest) -> bool:
        """Whether the extents of both may be one wave: they are asked for in the same way."""
        one, two = self.request, other.request
        return (one.sources, one.oldest_ms, one.timeout) == (two.sources, two.oldest_ms, two.timeout)

    def take(self, count: int) -> list[wire.Extent]:
        """So many of those that are left."""
        extents = self.request.extents[self._at : self._at + count]
        self._at += count
        return extents

    def end(self) -> None:
        """There is nothing left to do."""
        self._at = len(self.request.extents)
