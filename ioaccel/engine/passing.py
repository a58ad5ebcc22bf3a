"""Blocks that the cache has no room for, fetched ahead of the job that is about to read them.

They wait in the transit shard, which is memory, until the job asks for them. What a reader has got already is
not fetched for it again, and when a job has fetched by itself as much as may wait here, and found nothing, it
reads something else than was planned: then what waits for it is given up.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from ioaccel.engine.transit import SEGMENT_SIZE, SEGMENTS, Transit

# Bytes that are fetched ahead at most, of all jobs: three of eight segments. The others take what is fetched
# for readers who wait, so that nothing is overwritten before it is asked for. At 10 Gb/s it is 80 ms.
BUDGET = SEGMENTS * SEGMENT_SIZE * 3 // 8

# Blocks of which it is remembered that a reader was given them: as many as a job looks ahead, and more.
_MOST_GIVEN = 20_000


class Wish(NamedTuple):
    """A block that a job will read, and when that was said (monotonic)."""

    session: str
    plan: str
    asked: float


class Admitted:
    """Room for a block that is on its way. The bytes are a guess until it is there."""

    __slots__ = ("length", "pending", "wish")

    def __init__(self, wish: Wish, length: int) -> None:
        self.wish = wish
        self.length = length
        self.pending = True


class _Waiting(NamedTuple):
    location: bytes
    version_hash: int
    length: int
    wish: Wish


class _Job:
    """What one session's job is ahead by."""

    def __init__(self) -> None:
        self.waiting: dict[bytes, _Waiting] = {}
        self.given: OrderedDict[bytes, float] = OrderedDict()  # monotonic seconds
        self.missed = 0  # bytes that it fetched itself since it last found something here


class Passing:
    """What all jobs are ahead by. Any thread. ``live`` names the sessions whose clients are there."""

    def __init__(self, transit: Transit, live: Callable[[], frozenset[str]]) -> None:
        self._transit = transit
        self._live = live
        self._lock = threading.Lock()
        self._jobs: dict[str, _Job] = {}
        self._bytes = 0  # of what waits, and of what is on its way

    def room(self) -> bool:
        """Whether more may be asked for ahead: half of the budget is for waves that leave at once."""
        with self._lock:
            if self._bytes >= BUDGET // 2:
                self._forget_those_that_left()
            return self._bytes < BUDGET // 2

    def admit(self, wish: Wish, key: bytes, length: int) -> Admitted | None:
        """Leave to fetch a block ahead, to be ended by `bring` or `give_back`.

        None if there is no room, or if a reader has got it since it was wished for.
        """
        with self._lock:
            job = self._jobs.get(wish.session)
            if job is None:
                self._forget_those_that_left()
                job = self._jobs[wish.session] = _Job()
            late = wish.asked <= job.given.get(key, 0.0)
            if late or key in job.waiting or self._bytes >= BUDGET:
                return None
            self._bytes += length
            return Admitted(wish, length)

    def bring(self, admitted: Admitted, key: bytes, location: bytes, version_hash: int, length: int) -> None:
        """The block is in transit. Of two runs of a flight, the first to bring it counts."""
        with self._lock:
            job = self._jobs.get(admitted.wish.session)
            if admitted.pending and job is not None:
                admitted.pending = False
                before = job.waiting.get(key)  # it may have been asked for twice
                self._bytes += length - admitted.length - (before.length if before is not None else 0)
                job.waiting[key] = _Waiting(location, version_hash, length, admitted.wish)

    def give_back(self, admitted: Admitted) -> None:
        """It did not come; nothing, if it did."""
        with self._lock:
            if admitted.pending:
                admitted.pending = False
                self._bytes -= admitted.length

    def take(self, session: str, key: bytes, version_hash: int | None, likely: int) -> bytes | None:
        """The location of a block that a reader wants; None if it has to be fetched, ``likely`` so large."""
        with self._lock:
            job = self._jobs.get(session)
            if job is None:
                return None  # nothing was ever fetched ahead of it
            job.given[key] = time.monotonic()
            job.given.move_to_end(key)
            if len(job.given) > _MOST_GIVEN:
                job.given.popitem(last=False)
            waiting = job.waiting.pop(key, None)
            if waiting is None:
                job.missed += likely
                if job.missed >= BUDGET:
                    job.missed = 0
                    self._drop(job, lambda _: True)
                return None
            job.missed = 0
            self._bytes -= waiting.length
            right = version_hash in (None, waiting.version_hash) and self._transit.holds(waiting.location)
            return waiting.location if right else None

    def replan(self, session: str, plan: str) -> None:
        """What was wished for so far by a plan is out of date."""
        with self._lock:
            if (job := self._jobs.get(session)) is not None:
                self._drop(job, lambda waiting: waiting.wish.plan == plan)

    def _forget_those_that_left(self) -> None:
        live = self._live()
        for session in [session for session in self._jobs if session not in live]:
            self._drop(self._jobs.pop(session), lambda _: True)

    def _drop(self, job: _Job, which: Callable[[_Waiting], bool]) -> None:
        for key in [key for key, waiting in job.waiting.items() if which(waiting)]:
            self._bytes -= job.waiting.pop(key).length
