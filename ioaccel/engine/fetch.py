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

from ioaccel._core._engine import BLOCK_SIZE, Index, verify_block
from ioaccel.engine.block import Block, block_of, length_at
from ioaccel.engine.flights import Flight, Flights, Latch
from ioaccel.engine.incoming import Blocks, Landed
from ioaccel.engine.item import Item, Terms
from ioaccel.engine.landing import Landing
from ioaccel.engine.objects import Known, Objects, Target
from ioaccel.engine.passing import Passing
from ioaccel.engine.sessions import Session
from ioaccel.engine.shard import Shard
from ioaccel.engine.space import Incoming, Space
from ioaccel.engine.transit import ANSWER_BYTES
from ioaccel.errors import ObjectChangedError, RangeError, StoreTimeoutError
from ioaccel.sources.governor import Governor

# An object that changes faster than it can be read is the user's to sort out.
_ROUNDS = 4

# What an object of unknown size is taken to weigh until the first ones have been seen.
_FIRST_GUESS = 1 << 20


class _Weights:
    """Different blocks, and their bytes together."""

    def __init__(self) -> None:
        self.blocks: set[bytes] = set()
        self.total = 0

    def add(self, key: bytes, length: int) -> None:
        if key not in self.blocks:
            self.blocks.add(key)
            self.total += length


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
        self._blocks = Blocks(index, space, objects, passing)
        self.corrupt = 0

    def settle(self, items: list[Item], terms: Terms) -> None:
        """Settles every item: located, deferred, refused or failed."""
        todo = items
        for _ in range(_ROUNDS):
            self._know(todo, terms)
            self._locate(todo, terms)
            todo = [item for item in todo if not item.settled()]
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

        What a reader lacks leaves in waves. What is beyond what an answer may hold in transit is deferred.
        """
        for item in items:
            if item.known is not None and item.known.size == 0 and not item.blocks:
                self._keep_empty(item, terms.session)
        todo = [item for item in items if not item.settled()]
        passed = _Weights()  # blocks of this answer that are in transit
        while todo:
            lacking, rest = self._wave(todo, passed, terms)
            latch = Latch()
            wave = self._fly(lacking, terms, latch)
            latch.wait_until(terms.deadline)
            # An object that was met by its first block now shows which others it has.
            new = {id(item): item for item, _, _ in wave if item.known is None}
            for item, number, flight in wave:
                if length := self._land(item, number, flight, terms):
                    passed.add(item.block(number), length)
            # They go first: what has come of them already waits in transit.
            rest = [item for item in new.values() if item.known is not None and not item.settled()] + rest
            if passed.total >= ANSWER_BYTES or not lacking:
                for item in rest:
                    self._defer(item, terms)
                return
            todo = rest

    def _wave(
        self, todo: list[Item], passed: _Weights, terms: Terms
    ) -> tuple[list[tuple[Item, int]], list[Item]]:
        """Blocks to fetch together, and the items that come after them; no blocks if the answer is full."""
        lacking: list[tuple[Item, int]] = []
        coming = _Weights()
        room: int | None = None
        for position, item in enumerate(todo):
            first = not passed.total and not lacking
            numbers = self._lacking(item, passed, terms)
            transit = [number for number in item.blocks if item.block(number) in passed.blocks]
            if (len(numbers) + len(transit)) * BLOCK_SIZE > ANSWER_BYTES:
                self._defer(item, terms)  # the client asks for it piece by piece
                continue
            if numbers and self._in_vain(terms, self._likely(item, numbers[0])):
                item.refused, item.stored = True, False
                continue
            for number in numbers:
                coming.add(item.block(number), self._guess(item, number))
            weight = passed.total + coming.total
            if weight > ANSWER_BYTES and not first and not terms.keep:
                room = max(ANSWER_BYTES, self._space.room()) if room is None else room
                if weight > room:
                    return lacking, todo[position:]
            lacking += [(item, number) for number in numbers]
        return lacking, []

    def _defer(self, item: Item, terms: Terms) -> None:
        """Leaves an item to another answer; what has passed by the cache for it waits for that."""
        item.deferred = True
        if item.known is None or terms.keep:
            return
        for number, location in item.blocks.items():
            held = location, item.known.version_hash
            self._passing.hold(terms.session.name, item.block(number), held)

    def _in_vain(self, terms: Terms, length: int) -> bool:
        """Whether a prefetch would find no room for a block."""
        return terms.keep and terms.ahead is None and self._space.hopeless(length)

    def _lacking(self, item: Item, passed: _Weights, terms: Terms) -> list[int]:
        """The blocks of an item that have to be fetched; those that are there are noted, and those that
        were in transit added to what has ``passed``."""
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
                if location is None and not terms.keep and item.known.version is not None:
                    location = self._take(item, number, passed, terms)
                if location is None:
                    lacking.append(number)
                else:
                    item.blocks[number] = location
        if lacking and item.known.version is None:
            item.needs_version = True
            item.restart()
            return []
        return lacking

    def _take(self, item: Item, number: int, passed: _Weights, terms: Terms) -> bytes | None:
        """A block that was fetched already and is in transit."""
        assert item.known is not None
        key = item.block(number)
        location = self._passing.take(
            terms.session.name, key, item.known.version_hash, whole=item.covers(number)
        )
        if location is not None:
            passed.add(key, length_at(location))
        return location

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
        key = item.block(number)
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
                partial(self._blocks.fetch, target, number, version, likely, terms, []),
            )
        flights: dict[bytes, Flight] = {}
        for governor, work in works.items():
            started = self._flights.start_all(
                list(work.items()), latch, governor=governor, urgent=terms.urgent
            )
            flights.update(zip(work, started, strict=True))
        return [(item, number, flights[item.block(number)]) for item, number in lacking]

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
            held = None if item.covers(number) else (landed.location, landed.known.version_hash)
            self._passing.given(terms.session.name, item.block(number), held)
        return 0 if landed.cached else landed.length

    def _guess(self, item: Item, number: int) -> int:
        """What to take the block for, in an answer that must not hold too much."""
        if item.known is None:
            return min(int(4 * (self._blocks.typical or _FIRST_GUESS)), BLOCK_SIZE)
        return min(BLOCK_SIZE, item.known.size - number * BLOCK_SIZE)

    def _likely(self, item: Item, number: int) -> int:
        """The block's size as far as it is known; 0 before any was seen."""
        if item.known is None:
            return int(self._blocks.typical or 0)
        return min(BLOCK_SIZE, item.known.size - number * BLOCK_SIZE)

    def drop(self, item: Item) -> None:
        """Forgets the cached blocks of an extent whose bytes a client could not read."""
        known = self._objects.get(item.target) or self._recall(item.target)
        last = known.size if known else item.offset
        if item.length is not None:
            last = min(last, item.offset + item.length)
        for number in range(item.offset // BLOCK_SIZE, max(last - 1, item.offset) // BLOCK_SIZE + 1):
            key = item.block(number)
            cached = self._index.get(key)
            if cached is not None:
                self.corrupt += 1
                self._space.remove(key, cached[0])
