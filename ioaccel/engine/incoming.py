"""One block from the store: admitted, fetched, looked over, and put into the cache or past it."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from ioaccel._core._engine import BLOCK_SIZE, Index
from ioaccel.engine.block import Block, block_of
from ioaccel.engine.item import Terms
from ioaccel.engine.landing import Landing
from ioaccel.engine.objects import Known, Objects, Target, now_ms
from ioaccel.engine.passing import Passing
from ioaccel.engine.space import Expected, Incoming, Space
from ioaccel.sources import Fetched
from ioaccel.sources.base import changed


class Landed(msgspec.Struct):
    """One block that was fetched."""

    known: Known
    location: bytes
    cached: bool  # else in transit
    length: int


class _Arrived(NamedTuple):
    """One block that has come from the store."""

    target: Target
    number: int
    fetched: Fetched
    asked_ms: int
    terms: Terms
    expected: Expected | None


class Blocks:
    """Fetches blocks and stores them. Any thread; what calls it is a flight's work."""

    def __init__(self, index: Index, space: Space, objects: Objects, passing: Passing) -> None:
        self._index = index
        self._space = space
        self._objects = objects
        self._passing = passing
        self.typical: float | None = None  # bytes of a block, lately

    def fetch(
        self,
        target: Target,
        number: int,
        version: str | None,
        likely: int,
        terms: Terms,
        set_aside: list[Expected | None],
    ) -> Landed | Landing | None:
        """Fetches one block, which is then to be stored; None if it is not to be, for want of room.

        ``set_aside`` is the flight's: of two runs of a flight, the first has room set aside for both, in the
        cache or past it.
        """
        landed = self._landed_meanwhile(target, number, version, terms.oldest_ms)
        if landed is not None:
            return landed
        expected = None
        if terms.keep and not set_aside:
            likely = likely or int(self.typical or 0)  # the first may have come since it was asked for
            expected = self._space.expect(likely)
            if expected is None and not self._may_pass(terms, block_of(target.base, number), likely):
                return None
            set_aside.append(expected)
        start = number * BLOCK_SIZE
        asked_ms = now_ms()
        try:
            fetched: Fetched = target.governor.call(
                target.url,
                lambda: target.source.get(target.key, start, start + BLOCK_SIZE, version),
                terms.deadline,
                size_of=_length,
                range=(start, start + BLOCK_SIZE),
            )
        except BaseException:
            if expected is not None:
                self._space.expect_no_more(expected)
            raise
        arrived = _Arrived(target, number, fetched, asked_ms, terms, expected)
        return Landing(self._arrive, arrived, len(fetched.data))

    def _may_pass(self, terms: Terms, key: bytes, likely: int) -> bool:
        """Whether a block that the cache has no room for is to be fetched ahead of a job."""
        return terms.ahead is not None and self._passing.admit(terms.ahead, key, likely)

    def _arrive(self, arrived: list[_Arrived]) -> list[Landed | Exception]:
        """Stores blocks that were fetched."""
        outcomes: dict[int, Landed | Exception] = {}
        to_store: list[tuple[int, Known]] = []
        try:
            for n, one in enumerate(arrived):
                outcome = self._look_over(one)
                if isinstance(outcome, Known):
                    to_store.append((n, outcome))
                else:
                    outcomes[n] = outcome
            stored = self._space.store([_incoming(arrived[n]) for n, _ in to_store])
            for (n, known), place in zip(to_store, stored, strict=True):
                one, length = arrived[n], len(arrived[n].fetched.data)
                outcomes[n] = place if isinstance(place, Exception) else Landed(known, *place, length)
                if one.terms.ahead is None or isinstance(place, Exception):
                    continue
                if place[1]:
                    self._passing.kept(one.terms.ahead, length)
                else:
                    key = block_of(one.target.base, one.number)
                    self._passing.bring(one.terms.ahead, key, place[0], known.version_hash, length)
        finally:
            for one in arrived:
                if one.expected is not None:
                    self._space.expect_no_more(one.expected)
        return [outcomes[n] for n in range(len(arrived))]

    def _look_over(self, one: _Arrived) -> Known | Landed | Exception:
        """What the object is known as, if its block is to be stored; else the block's end."""
        info, length = one.fetched.info, len(one.fetched.data)
        known = self._objects.note(one.target.base, info, one.asked_ms)
        if known.version != info.version:
            return changed(one.target.url)
        self.typical = length if self.typical is None else self.typical + (length - self.typical) / 16
        # By the other run, if this one was hedged.
        return self._landed_meanwhile(one.target, one.number, None, one.terms.oldest_ms) or known

    def _landed_meanwhile(
        self, target: Target, number: int, version: str | None, oldest_ms: int
    ) -> Landed | None:
        """The block, if another flight stored it after this one was asked for."""
        known = self._objects.get(target)
        if known is None or known.checked_ms < oldest_ms or version not in (None, known.version):
            return None
        entry = self._index.get(block_of(target.base, number))
        if entry is None or (entry[2], entry[3]) != (known.size, known.version_hash) or not entry[5]:
            return None
        return Landed(known, entry[0], True, entry[1])


def _incoming(one: _Arrived) -> Incoming:
    target, info, data = one.target, one.fetched.info, one.fetched.data
    start = one.number * BLOCK_SIZE
    key = block_of(target.base, one.number)
    block = Block(key, target.url, info.version, info.size, start, one.asked_ms)
    return Incoming(block, data, len(data), one.terms.session, one.expected)


def _length(fetched: Fetched) -> int:
    return len(fetched.data)
