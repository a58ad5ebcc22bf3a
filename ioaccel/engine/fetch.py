"""From extents to locations: what is cached is checked, what is not is fetched.

An extent goes round until it is settled. It needs to know its object (size and version, checked
recently enough), then every block it touches. An object that changes on the way sends its extent
back to the start; a read never mixes two versions.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import msgspec

from ioaccel._core._engine import BLOCK_SIZE, Index, verify_block
from ioaccel.engine.block import Block, block_of
from ioaccel.engine.flights import Flight, Flights, Latch
from ioaccel.engine.landing import Landing
from ioaccel.engine.objects import Known, Objects, Target, now_ms
from ioaccel.engine.passing import Ahead, Passing
from ioaccel.engine.sessions import Session
from ioaccel.engine.shard import Shard
from ioaccel.engine.space import Expected, Incoming, Space
from ioaccel.engine.transit import ANSWER_BYTES
from ioaccel.errors import IOAccelError, ObjectChangedError, RangeError, StoreTimeoutError
from ioaccel.sources import Fetched
from ioaccel.sources.base import changed
from ioaccel.sources.governor import Governor

# An object that changes faster than it can be read is the user's to sort out.
_ROUNDS = 4

# What an object of unknown size is taken to weigh until the first ones have been seen.
_FIRST_GUESS = 1 << 20


class Terms(msgspec.Struct, frozen=True):
    """What a request asks of all its extents."""

    session: Session
    oldest_ms: int  # a version that was last checked before does not count
    deadline: float  # monotonic
    urgent: bool = True  # somebody waits for it
    keep: bool = False  # a prefetch: what the cache has no room for is not fetched
    ahead: Ahead | None = None  # or as far ahead of the job as memory has room for it


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


class Item(msgspec.Struct):
    """One extent on its way."""

    target: Target
    offset: int
    length: int | None
    most: int | None = None  # bytes; of a longer extent to the end, no blocks are wanted
    known: Known | None = None
    blocks: dict[int, bytes] = {}  # block number -> location
    stored: bool = True  # every block is in the cache, none in transit
    deferred: bool = False  # too much for one answer
    refused: bool = False  # a prefetch for which there is no room
    needs_version: bool = False  # nothing can be fetched before the store has said size and version
    error: Exception | None = None
    late: StoreTimeoutError | None = None  # a flight that it joined ran out of time

    def restart(self) -> None:
        self.known = None
        self.blocks.clear()

    def numbers(self) -> range:
        """The blocks that the extent touches; the object must be known."""
        assert self.known is not None
        length = self.known.size - self.offset if self.length is None else self.length
        if self.length is None and self.most is not None and length > self.most:
            length = 0
        if self.offset + length > self.known.size or length < 0:
            raise RangeError(
                f"{self.target.url} has {self.known.size} bytes, and {self.offset}..{self.offset + length} "
                "does not lie inside; read within its size",
                url=self.target.url,
                range=(self.offset, self.offset + max(length, 0)),
            )
        first = self.offset // BLOCK_SIZE
        return range(first, (self.offset + length - 1) // BLOCK_SIZE + 1 if length else first)

    @property
    def settled(self) -> bool:
        return (
            self.error is not None
            or self.deferred
            or self.refused
            or (self.known is not None and len(self.blocks) >= len(self.numbers()))
        )


class Fetcher:
    """Settles extents. Any thread; one call a request."""

    def __init__(
        self,
        index: Index,
        shards: list[Shard],
        space: Space,
        objects: Objects,
        flights: Flights,
        passing: Passing,
    ) -> None:
        self._index = index
        self._shards = shards
        self._space = space
        self._objects = objects
        self._flights = flights
        self._passing = passing
        self._typical: float | None = None  # bytes of a block, lately
        self.corrupt = 0

    def settle(self, items: list[Item], terms: Terms) -> None:
        """Settles every item: located, deferred, refused or failed."""
        todo = items
        for _ in range(_ROUNDS):
            self._know(todo, terms)
            self._locate(todo, terms)
            todo = [item for item in todo if not _settled(item)]
            if not todo:
                return
        for item in todo:
            item.error = item.late or ObjectChangedError(
                f"{item.target.url} kept changing while it was read; wait until it is written, and "
                "read it again",
                url=item.target.url,
                attempts=_ROUNDS,
            )

    # ---- objects --------------------------------------------------------------------------------

    def _know(self, items: list[Item], terms: Terms) -> None:
        """Finds out the version of every object that was seen before; new ones are met by fetching."""
        stale: dict[bytes, Target] = {}
        for item in items:
            if item.known is None and item.error is None:
                known = self._objects.get(item.target) or self._recall(item.target)
                if known is None and not item.needs_version:
                    continue
                named = known is not None and (known.version is not None or not item.needs_version)
                if known is not None and named and known.checked_ms >= terms.oldest_ms:
                    item.known = known
                else:
                    stale[item.target.base] = item.target
        if not stale:
            return
        checked = self._objects.check(list(stale.values()), terms.oldest_ms, terms.deadline)
        for item in items:
            found = checked.get(item.target.base)
            if isinstance(found, Known):
                item.known = found
            elif found is not None:
                item.error = found

    def _recall(self, target: Target) -> Known | None:
        """What the index knows of an object: all but the name of its version."""
        entry = self._index.get(target.base)
        return Known(entry[2], None, entry[3], entry[4]) if entry is not None else None

    # ---- blocks ---------------------------------------------------------------------------------

    def _locate(self, items: list[Item], terms: Terms) -> None:
        """Finds or fetches every block that the items still lack.

        While blocks pass through, they are fetched in waves of what an answer can hold in transit,
        and what is beyond that is deferred.
        """
        for item in items:
            if item.known is not None and item.known.size == 0 and not item.blocks:
                self._keep_empty(item, terms.session)
        todo = [item for item in items if not _settled(item)]
        passed = 0
        while todo:
            lacking: list[tuple[Item, int]] = []
            rest: list[Item] = []
            weight = 0
            for item in todo:
                if weight >= ANSWER_BYTES and self._space.passing and not terms.keep:
                    rest.append(item)
                    continue
                numbers = self._lacking(item, terms)
                if len(numbers) * BLOCK_SIZE > ANSWER_BYTES:
                    item.deferred = True  # the client asks for it piece by piece
                elif numbers and self._in_vain(terms, self._likely(item, numbers[0])):
                    item.refused, item.stored = True, False
                else:
                    lacking += [(item, number) for number in numbers]
                    weight += sum([self._guess(item, number) for number in numbers])
            latch = Latch()
            wave = self._fly(lacking, terms, latch)
            latch.wait_until(terms.deadline)
            # An object that was met by its first block now shows which others it has.
            new = {id(item): item for item, _, _ in wave if item.known is None}
            for item, number, flight in wave:
                passed += self._land(item, number, flight, terms)
            rest += [item for item in new.values() if item.known is not None and not _settled(item)]
            if passed >= ANSWER_BYTES:
                for item in rest:
                    item.deferred = True
                return
            todo = rest

    def _in_vain(self, terms: Terms, length: int) -> bool:
        """Whether a prefetch would find no room for a block."""
        return terms.keep and terms.ahead is None and self._space.hopeless(length)

    def _lacking(self, item: Item, terms: Terms) -> list[int]:
        """The blocks of an item that have to be fetched; those that are there are noted."""
        if item.known is None:
            return [item.offset // BLOCK_SIZE]
        try:
            numbers = item.numbers()
        except RangeError as error:
            item.error = error
            return []
        lacking = []
        for number in numbers:
            if number not in item.blocks:
                terms.session.asked(item.target.url)
                location = self._cached(item, number)
                if location is None and not terms.keep:
                    key = block_of(item.target.base, number)
                    location = self._passing.take(terms.session.name, key, item.known.version_hash)
                if location is None:
                    lacking.append(number)
                else:
                    item.blocks[number] = location
        if lacking and item.known.version is None:
            item.needs_version = True
            item.restart()
            return []
        return lacking

    def _keep_empty(self, item: Item, session: Session) -> None:
        """Has the index know an object of which there is nothing to fetch: reading it again asks nobody."""
        known, target = item.known, item.target
        assert known is not None
        if self._cached(item, 0) is None and known.version is not None:
            block = Block(block_of(target.base, 0), target.url, known.version, 0, 0, known.checked_ms)
            self._space.store([Incoming(block, b"", 0, session)])

    def _cached(self, item: Item, number: int) -> bytes | None:
        """The location of a block that is in the cache, sound and of the right version."""
        assert item.known is not None
        key = block_of(item.target.base, number)
        entry = self._index.get(key)
        if entry is None:
            return None
        location, length, object_size, version, checked_ms, verified = entry
        if version != item.known.version_hash or object_size != item.known.size:
            self._space.remove(key, location)
            return None
        if not verified and not self._verify(key, location, length, version):
            self.corrupt += 1
            self._space.remove(key, location)
            return None
        if not verified or checked_ms < item.known.checked_ms:
            self._index.touch(key, location, item.known.checked_ms, True)
        return location

    def _verify(self, key: bytes, location: bytes, length: int, version: int) -> bool:
        shard = self._shards[int.from_bytes(location[0:2], "little")]
        segment = int.from_bytes(location[4:8], "little")
        offset = int.from_bytes(location[12:16], "little")
        try:
            return verify_block(
                shard.fd, shard.start_of(segment), shard.segment_size, key, version, offset, length
            )
        except OSError:
            return False

    def _fly(
        self, lacking: list[tuple[Item, int]], terms: Terms, latch: Latch
    ) -> list[tuple[Item, int, Flight]]:
        """Starts the flights of blocks; one that the batch wants twice is fetched once."""
        works: defaultdict[Governor, dict[bytes, Callable[[], Landed | Landing | None]]] = defaultdict(dict)
        for item, number in lacking:
            target, version = item.target, None
            if item.known is None:
                terms.session.asked(target.url)
            else:
                version = item.known.version
            likely = self._likely(item, number)
            works[target.governor].setdefault(
                block_of(target.base, number),
                partial(self._fetch, target, number, version, likely, terms, []),
            )
        flights: dict[bytes, Flight] = {}
        for governor, work in works.items():
            started = self._flights.start_all(
                list(work.items()), latch, governor=governor, urgent=terms.urgent
            )
            flights.update(zip(work, started, strict=True))
        return [(item, number, flights[block_of(item.target.base, number)]) for item, number in lacking]

    def _fetch(
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
            likely = likely or int(self._typical or 0)  # the first may have come since it was asked for
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
                if one.terms.ahead is not None and not isinstance(place, Exception) and not place[1]:
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
        self._typical = length if self._typical is None else self._typical + (length - self._typical) / 16
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

    def _land(self, item: Item, number: int, flight: Flight, terms: Terms) -> int:
        """Takes a flight's block; returns its bytes if they are in transit."""
        if item.error is not None:
            return 0
        if not flight.done:
            item.error = StoreTimeoutError(
                f"{item.target.url}: the store did not answer in time; check that it is reachable, or "
                "allow more time with timeout=",
                url=item.target.url,
            )
            return 0
        if isinstance(flight.error, StoreTimeoutError) and time.monotonic() < terms.deadline:
            item.late = flight.error  # another reader's, who had less time: ask again
            return 0
        if isinstance(flight.error, ObjectChangedError):
            self._objects.forget(item.target)
            item.restart()
            return 0
        if isinstance(flight.error, RangeError) and item.known is None:
            item.needs_version = True  # it ends before this block: only its size tells whether that is wrong
            return 0
        if flight.error is not None:
            item.error = flight.error
            return 0
        landed: Landed | None = flight.result
        if landed is None:
            # Of a prefetch that had no room: another prefetch has none either, a reader asks again.
            item.refused = terms.keep
            item.stored = item.stored and not terms.keep
            return 0
        if landed.known.checked_ms < terms.oldest_ms:
            return 0  # a flight that had left before this reader's session began: ask again
        if item.known is not None and item.known.version_hash != landed.known.version_hash:
            item.restart()
            return 0
        if item.known is None:
            item.known = landed.known
        item.blocks[number] = landed.location
        item.stored = item.stored and landed.cached
        if not landed.cached and not terms.keep:
            self._passing.given(terms.session.name, block_of(item.target.base, number))
        return 0 if landed.cached else landed.length

    def _guess(self, item: Item, number: int) -> int:
        """What to take the block for, in an answer that must not hold too much."""
        if item.known is None:
            return min(int(4 * (self._typical or _FIRST_GUESS)), BLOCK_SIZE)
        return min(BLOCK_SIZE, item.known.size - number * BLOCK_SIZE)

    def _likely(self, item: Item, number: int) -> int:
        """The block's size as far as it is known; 0 before any was seen."""
        if item.known is None:
            return int(self._typical or 0)
        return min(BLOCK_SIZE, item.known.size - number * BLOCK_SIZE)

    def drop(self, item: Item) -> None:
        """Forgets the cached blocks of an extent whose bytes a client could not read."""
        known = self._objects.get(item.target) or self._recall(item.target)
        last = known.size if known else item.offset
        if item.length is not None:
            last = min(last, item.offset + item.length)
        for number in range(item.offset // BLOCK_SIZE, max(last - 1, item.offset) // BLOCK_SIZE + 1):
            key = block_of(item.target.base, number)
            cached = self._index.get(key)
            if cached is not None:
                self.corrupt += 1
                self._space.remove(key, cached[0])


def _incoming(one: _Arrived) -> Incoming:
    target, info, data = one.target, one.fetched.info, one.fetched.data
    start = one.number * BLOCK_SIZE
    key = block_of(target.base, one.number)
    block = Block(key, target.url, info.version, info.size, start, one.asked_ms)
    return Incoming(block, data, len(data), one.terms.session, one.expected)


def _length(fetched: Fetched) -> int:
    return len(fetched.data)


def _settled(item: Item) -> bool:
    try:
        return item.settled
    except RangeError as error:
        item.error = error
        return True


def as_ioaccel_error(error: Exception, url: str) -> IOAccelError:
    """What the client is told; anything unforeseen keeps its type and text."""
    if isinstance(error, IOAccelError):
        return error
    return IOAccelError(f"{url}: {type(error).__name__}: {error}", url=url)
