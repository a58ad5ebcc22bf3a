"""Prefetches in the background: a window over all that was asked for, in the order it was asked for.

A loader asks batch by batch, dozens of batches ahead. Messages are cut into waves, or put together where
they are small, and as many waves are on their way at once as there are threads here: when one has landed the
next one leaves, so the store always has enough to do and nothing waits for the slowest of a message.
Sessions take turns, and so do the plans of one. The queues of a session that has left are dropped, and what a
plan has asked for is when its next round begins.

Once the cache is full, what was asked for without a plan is dropped. Of a plan, waves are smaller, and
leave as far ahead of the job as there is memory for them (`ioaccel.engine.passing`); what there was no room
for takes its place in the queue again.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ioaccel import wire
from ioaccel.engine.passing import Ahead, Passing

# Extents of one wave, and waves on their way: 512 together, twice what a governor ever admits, so that
# a wave whose last extent is slow leaves the others enough to fill it.
WAVE = 64
_WAVES = 8
# Of a wave that passes by a full cache: 128 together, what a store with 20 ms to the first byte gains from.
_PASSING_WAVE = 16

# A plan looks less far ahead than this, so what is older in its queue was read long ago.
_LONGEST_QUEUE = 16_384

# How often it is tried whether a cache that was full has room again, for those who have no memory left, and
# looked whether something has changed of which nobody tells.
_FULL_SECONDS = 1.0


class Wave(NamedTuple):
    """Extents that leave together. ``ahead``: those that the cache has no room for may go past it."""

    request: wire.Prefetch
    extents: list[wire.Extent]
    ahead: Ahead | None


class Settled(NamedTuple):
    """What has come of a wave: whether the cache had room for all of it, None if that did not show, and which
    of its extents may go past it later."""

    fits: bool | None
    refused: Iterable[int] = ()


class Prefetches:
    """The queues of all plans, and the threads that work them off. Any thread."""

    def __init__(
        self,
        settle: Callable[[Wave], Settled],
        live: Callable[[], frozenset[str]],
        passing: Passing,
    ) -> None:
        """``settle`` brings extents into the cache, and raises nothing; ``live`` names the sessions whose
        clients are there."""
        self._settle = settle
        self._live = live
        self._passing = passing
        passing.freed = self._go_on
        self._lock = threading.Lock()
        self._came = threading.Condition(self._lock)
        # By session and plan; whose turn it is first.
        self._queues: OrderedDict[tuple[str, str], deque[_Rest]] = OrderedDict()
        self._full: dict[str, float] = {}  # sessions for whose waves the cache had no room, and when
        self._threads = 0
        self._idle = 0
        self._closed = False

    def add(self, request: wire.Prefetch) -> None:
        """Queues a message behind all others of its plan."""
        name, number = request.plan if request.plan is not None else ("", 0)
        with self._lock:
            turn = self._passing.turn(request.session, name, number) if name else 0
            if turn < 0:
                return  # of a round that is over
            queue = self._queues.setdefault((request.session, name), deque())
            if turn > 0:
                queue.clear()
            queue.append(_Rest(request))
            if name:
                left = sum(rest.left for rest in queue)
                while left > _LONGEST_QUEUE and len(queue) > 1:
                    left -= queue.popleft().left
            self._call_thread()

    def _call_thread(self) -> None:
        """Sees to it that a thread comes for the next wave; the caller holds the lock."""
        if self._idle:
            self._came.notify()
        elif self._threads < _WAVES:
            self._threads += 1
            threading.Thread(target=self._work, name="ioaccel-prefetch", daemon=True).start()

    def _go_on(self) -> None:
        """Something that waited was read: a plan may go on."""
        with self._lock:
            self._came.notify()

    def close(self) -> None:
        """Drops what is queued, and lets the threads go."""
        with self._lock:
            self._closed = True
            self._queues.clear()
            self._came.notify_all()

    def _work(self) -> None:
        while (found := self._next()) is not None:
            wave, places = found
            settled = self._settle(wave)
            with self._lock:
                if settled.fits:
                    self._full.pop(wave.request.session, None)
                elif settled.fits is not None:
                    self._full[wave.request.session] = time.monotonic()
                    if wave.ahead is None:
                        for rest, _ in places:
                            rest.end()  # what came now would be fetched again when it is read
                if wave.ahead is not None:
                    if wave.ahead.current:
                        self._put_back(wave.request, [places[n] for n in settled.refused])
                    self._passing.end(wave.ahead)  # only now others may have its room
                if self._queues:
                    self._came.notify()  # a wave that ends leaves room

    def _put_back(self, request: wire.Prefetch, places: list[_Place]) -> None:
        """Extents of a plan that there was no room for yet; the caller holds the lock.

        Without them, it would be ahead by what comes after them: those who read them pass by the cache, too,
        and overwrite what waits in memory.
        """
        if not places:
            return
        assert request.plan is not None
        queue = self._queues.setdefault((request.session, request.plan[0]), deque())
        for rest, place in places:
            if rest.empty:  # and not in the queue any more
                queue.insert(bisect(queue, rest.asked, key=lambda other: other.asked), rest)
            rest.put_back(place)

    def _next(self) -> tuple[Wave, list[_Place]] | None:
        """The next wave, and where its extents come from, once there is one; None at the end."""
        with self._lock:
            while not self._closed:
                live = self._live()
                for key in [key for key in self._queues if key[0] not in live]:
                    del self._queues[key]  # whoever asked for it is gone
                for session in self._full.keys() - live:
                    del self._full[session]
                found = self._take_turns()
                if found is not None:
                    return found
                self._idle += 1
                self._came.wait(_FULL_SECONDS if self._queues else None)
                self._idle -= 1
            return None

    def _may_leave(self, session: str, plan: str, asked: float, most: int) -> Ahead | None:
        """Lets extents of a plan leave, ``most`` of them; None if none may. The caller holds the lock."""
        since, now = self._full.get(session), time.monotonic()
        if since is None:
            return self._passing.leave(session, plan, asked, most, full=False)
        ahead = self._passing.leave(session, plan, asked, min(most, _PASSING_WAVE), full=True)
        if ahead is None and now - since > _FULL_SECONDS:
            self._full[session] = now
            ahead = self._passing.leave(session, plan, asked, 1, full=False)  # one tries
        return ahead

    def _take_turns(self) -> tuple[Wave, list[_Place]] | None:
        """The wave of the first plan that may leave; the caller holds the lock."""
        for key, queue in list(self._queues.items()):
            session, plan = key
            while queue and queue[0].empty:
                queue.popleft()
            if not queue:
                del self._queues[key]
                continue
            most, ahead = _ready(queue), None
            if plan:
                ahead = self._may_leave(session, plan, queue[0].asked, most)
                if ahead is None:
                    continue
                most = ahead.extents
            places: list[_Place] = []
            while len(places) < most:
                places += queue[0].take(most - len(places))
                if queue[0].empty:
                    queue.popleft()
            self._queues.move_to_end(key)
            if not queue:
                del self._queues[key]
            if self._queues:
                self._call_thread()  # a message of many waves called one thread
            extents = [rest.request.extents[place] for rest, place in places]
            return Wave(places[0][0].request, extents, ahead), places
        return None


def _ready(queue: deque[_Rest]) -> int:
    """How many extents may be one wave."""
    count = 0
    for rest in queue:
        if count >= WAVE or not queue[0].goes_with(rest):
            break
        count += rest.left
    return min(count, WAVE)


class _Rest:
    """What is left to do of one message."""

    __slots__ = ("_left", "asked", "request")

    def __init__(self, request: wire.Prefetch) -> None:
        self.request = request
        self.asked = time.monotonic()
        self._left = deque(range(len(request.extents)))

    @property
    def left(self) -> int:
        return len(self._left)

    @property
    def empty(self) -> bool:
        return not self._left

    def goes_with(self, other: _Rest) -> bool:
        """Whether the extents of both may be one wave: they are asked for in the same way."""
        one, two = self.request, other.request
        return (one.sources, one.oldest_ms, one.timeout) == (two.sources, two.oldest_ms, two.timeout)

    def take(self, count: int) -> list[_Place]:
        """So many of those that are left."""
        return [(self, self._left.popleft()) for _ in range(min(count, len(self._left)))]

    def put_back(self, place: int) -> None:
        """An extent that was taken is left to do."""
        self._left.insert(bisect(self._left, place), place)

    def end(self) -> None:
        """There is nothing left to do."""
        self._left.clear()


# An extent of a message, by its number there.
_Place = tuple[_Rest, int]
