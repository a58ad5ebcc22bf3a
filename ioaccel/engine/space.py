"""Where new blocks go: placement over shards, admission, eviction, pass-through.

The rule (docs/design/0001): a block is admitted while there is room; when there is none, segments
that no live session reads are evicted, least recently used first; if every segment is in use, the
block passes through the transit shard. So a job never evicts its own data set.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ioaccel._core._engine import BLOCK_SIZE, Index, Writer, kill_blocks
from ioaccel.engine.block import Block, length_at
from ioaccel.engine.sessions import Clients, Session, directory_of
from ioaccel.engine.shard import Segment, Shard, Use
from ioaccel.engine.transit import Transit

if TYPE_CHECKING:
    from typing_extensions import Buffer

# A segment with less room than this is not worth going on with.
_SMALLEST_ROOM = 64 << 10

# A segment with less live payload than this share of its size is worth giving up for its space.
_MOSTLY_DEAD = 0.5


class Expected:
    """Room that is set aside for a block until it comes; 0 bytes if nobody knows yet how large blocks are."""

    __slots__ = ("length", "pending")

    def __init__(self, length: int) -> None:
        self.length = length
        self.pending = True


class Incoming(NamedTuple):
    """A block that has come, and for whom. ``expected`` is the room that was set aside for it."""

    block: Block
    data: Buffer
    length: int
    session: Session
    expected: Expected | None = None


class Place(NamedTuple):
    """Where a block is written."""

    shard: Shard
    segment: Segment
    writer: Writer
    sequence: int


class Space:
    """The segments of all shards. Any thread."""

    def __init__(self, index: Index, shards: list[Shard], transit: Transit, clients: Clients) -> None:
        self._index = index
        self._shards = shards
        self._transit = transit
        self._clients = clients
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting = 0  # for a change; nobody is notified in vain
        self._open: dict[tuple[str, int], Segment] = {}  # (session, shard) -> the segment it writes
        self._first = [sum(len(s.segments) for s in shards[:n]) for n in range(len(shards))]
        self._sequence = 0
        self._segment_sequence = 0
        self._expected = 0  # payload bytes that prefetches are about to bring
        self._unmeasured = 0  # blocks that they are about to bring, of a size that nobody knew
        # Until when, among which sessions, and for how many bytes or more there is no room.
        self._hopeless: tuple[float, frozenset[str], int] = (0.0, frozenset(), 0)
        self.evicted_segments = 0
        self.evicted_bytes = 0

    def recovered(self, highest: int) -> None:
        """Sequences go on above what recovery found."""
        self._sequence = self._segment_sequence = highest

    def expect(self, length: int) -> Expected | None:
        """Sets room aside for a block that is about to be fetched; None if it would not be kept.

        The room is given back by `store`, or by `expect_no_more`.
        """
        with self._lock:
            if self.hopeless(length):
                return None
            while True:
                usable = [s for s in self._shards if s.takes_blocks]
                stored = sum([self._index.shard_usage(s.number)[1] for s in usable])
                # What was asked for before any size was known is taken for as large as this one.
                expected = self._expected + self._unmeasured * length
                free = sum([s.capacity for s in usable]) - stored - expected
                pending = sum([s.pending for s in usable])
                if usable and free - pending >= length:
                    self._expected += length
                    self._unmeasured += length == 0
                    return Expected(length)
                if pending and free >= length:
                    self._wait()  # a block that is being appended counts twice for a moment
                elif not self._evict_one(usable, length):
                    return None

    def expect_no_more(self, expected: Expected) -> None:
        """Gives back what is left of the room that was set aside."""
        with self._lock:
            self._take_back(expected)

    def _take_back(self, expected: Expected) -> None:
        if expected.pending:
            expected.pending = False
            self._expected -= expected.length
            self._unmeasured -= expected.length == 0

    def hopeless(self, length: int) -> bool:
        """Whether a search for room for that many bytes has lately found none, and would not now."""
        until, names, least = self._hopeless
        return length >= least and time.monotonic() < until and names == self._clients.names()

    def store(self, incoming: Sequence[Incoming]) -> list[tuple[bytes, bool] | Exception]:
        """Appends blocks: of each its location, and whether it is in the cache (else in transit)."""
        self._look_for_truncated()
        outcomes: dict[int, tuple[bytes, bool] | Exception] = {}
        todo = list(range(len(incoming)))
        while todo:
            try:
                places = self._take([incoming[n] for n in todo])
            except Exception as error:  # noqa: BLE001  # of the first alone
                outcomes[todo.pop(0)] = error
                continue
            if not places:
                n = todo.pop(0)
                outcomes[n] = self._pass_through(incoming[n])
                continue
            again = []
            taken = [incoming[n] for n in todo[: len(places)]]
            for n, appended in zip(todo, self._append(taken, places), strict=False):
                if appended is None or isinstance(appended, OSError):
                    again.append(n)  # to another segment, or another shard
                else:
                    outcomes[n] = (appended, True) if isinstance(appended, bytes) else appended
            todo[: len(places)] = again
        return [outcomes[n] for n in range(len(incoming))]

    def _pass_through(self, one: Incoming) -> tuple[bytes, bool] | Exception:
        try:
            return self._transit.store(one.block, one.data, one.length), False
        except Exception as error:  # noqa: BLE001  # of this one alone
            return error

    def _append(self, taken: list[Incoming], places: list[Place]) -> list[bytes | Exception | None]:
        """Writes blocks to the segments that were taken for them, those of one segment in one call."""
        outcomes: list[bytes | Exception | None] = [None] * len(taken)
        by_writer: dict[Writer, list[int]] = {}
        for n, place in enumerate(places):
            by_writer.setdefault(place.writer, []).append(n)
        try:
            for writer, numbers in by_writer.items():
                appends = [_to_append(taken[n], places[n].sequence) for n in numbers]
                for n, outcome in zip(numbers, writer.append_all(self._index, appends), strict=True):
                    outcomes[n] = outcome
        finally:
            self._give_back(taken, places, outcomes)
        return outcomes

    def room(self) -> int:
        """Bytes that would find room now, about: free, or held by segments that could be evicted.

        Looks at every segment. 0 while a search has lately found none for any block.
        """
        with self._lock:
            if self.hopeless(BLOCK_SIZE):
                return 0
            self._retire_orphans()
            usable = [s for s in self._shards if s.takes_blocks]
            free = sum([max(0, s.capacity - self._stored(s)) for s in usable])
            unused = self._unused(self._idle(usable))
            return free + sum([self._index.segment_usage(a.number, b.number)[1] for a, b in unused])

    def _take(self, incoming: Sequence[Incoming]) -> list[Place]:
        """Sets payload aside for the first of these blocks, as many as find room at once; empty if there is
        none for the first, whatever is waited for or evicted."""
        places: list[Place] = []
        with self._lock:
            for one in incoming:
                if one.expected is not None:
                    self._take_back(one.expected)
                try:
                    place = self._place(one, alone=not places)
                except Exception:
                    if not places:
                        raise
                    break  # it fails again when it is the first
                if place is None:
                    break
                places.append(place)
        return places

    def _place(self, one: Incoming, *, alone: bool) -> Place | None:
        """Room for a block; the caller holds the lock. Waits only when ``alone``: what it might wait for
        could be the appends of those that were placed before it."""
        while True:
            usable = [s for s in self._shards if s.takes_blocks]
            waiting = False
            if len(usable) > 1:
                # The emptiest first: all shards fill up together, whatever their sizes.
                usable.sort(key=self._filled)
            for shard in usable:
                stored = self._index.shard_usage(shard.number)[1]
                if stored + shard.pending + one.length > shard.capacity:
                    # A block that is being appended counts twice for a moment: look again.
                    waiting = waiting or (shard.pending > 0 and stored + one.length <= shard.capacity)
                    continue
                segment = self._writable(shard, one.block.url, one.session)
                if segment is not None and segment.writer is not None:
                    shard.pending += one.length
                    segment.appending += 1
                    self._sequence += 1
                    return Place(shard, segment, segment.writer, self._sequence)
            if not alone:
                return None
            if waiting:
                self._wait()
            elif not self._evict_one(usable, one.length):
                return None

    def _look_for_truncated(self) -> None:
        """Forgets all that a shard held, if its file was truncated by somebody."""
        # Outside the lock: a system call lets the GIL go, and whoever takes it would wait for the lock.
        for shard in self._shards:
            if shard.was_truncated():
                with self._lock:
                    for segment in shard.segments:
                        segment.generation = self._index.forget(shard.number, segment.number)

    def _give_back(
        self, taken: list[Incoming], places: list[Place], outcomes: list[bytes | Exception | None]
    ) -> None:
        now = _now_ms()
        with self._lock:
            for one, (shard, segment, _, _), outcome in zip(taken, places, outcomes, strict=True):
                shard.pending -= one.length
                segment.appending -= 1
                segment.written_ms = now
                if isinstance(outcome, bytes):
                    shard.written += one.length
                    shard.worked()
                    one.session.touched.add(self._position(shard, segment))
                    continue
                if outcome is not None and not isinstance(outcome, OSError):
                    continue
                # Full, or a failed write: the next block tries another segment.
                if segment.use is Use.OPEN:
                    self._retire(segment, Use.FULL)
                if outcome is not None:
                    shard.failed(outcome)
            self._tell()

    def _wait(self) -> None:
        """Waits for a change; the caller holds the lock."""
        self._waiting += 1
        self._changed.wait(1.0)
        self._waiting -= 1

    def _tell(self) -> None:
        """Wakes those who wait for a change; the caller holds the lock."""
        if self._waiting:
            self._changed.notify_all()

    def _filled(self, shard: Shard) -> float:
        return self._stored(shard) / shard.capacity if shard.capacity else 1.0

    def _position(self, shard: Shard, segment: Segment) -> int:
        return self._first[shard.number] + segment.number

    # ---- segments to write ----------------------------------------------------------------------

    def _writable(self, shard: Shard, url: str, session: Session) -> Segment | None:
        """The segment that this session writes on this shard, opening one if need be."""
        segment = self._open.get((session.name, shard.number))
        if segment is not None and segment.use is Use.OPEN:
            return segment
        self._retire_orphans()
        try:
            segment = self._resume(shard, url) or self._start(shard)
        except OSError as error:
            shard.failed(error)
            return None
        if segment is None:
            # Every segment is taken: write along in another session's.
            segment = next((s for s in shard.segments if s.use is Use.OPEN), None)
        if segment is not None:
            self._open[session.name, shard.number] = segment
        return segment

    def _resume(self, shard: Shard, url: str) -> Segment | None:
        """A segment with room that holds the same bucket's objects; any with room as a last resort."""
        parts = [s for s in shard.segments if s.use is Use.PART and s.appending == 0]
        free = any(s.use is Use.FREE for s in shard.segments)
        parts = [s for s in parts if not free or _related(s.prefix, url)]
        for segment in sorted(parts, key=lambda s: s.sequence, reverse=True):
            writer = Writer(
                shard.fd, shard.start_of(segment.number), shard.segment_size, None,
                shard.number, segment.number, segment.generation,
            )  # fmt: skip
            if writer.room >= _SMALLEST_ROOM:
                segment.writer, segment.use = writer, Use.OPEN
                return segment
            segment.use = Use.FULL
        return None

    def _start(self, shard: Shard) -> Segment | None:
        """A free segment, begun anew."""
        segment = next((s for s in shard.segments if s.use is Use.FREE), None)
        if segment is None:
            return None
        shard.allocate(segment)
        # Readers that still hold locations in it must fail before its bytes change.
        segment.generation = self._index.forget(shard.number, segment.number)
        self._segment_sequence += 1
        segment.sequence = self._segment_sequence
        segment.writer = Writer(
            shard.fd, shard.start_of(segment.number), shard.segment_size, segment.sequence,
            shard.number, segment.number, segment.generation,
        )  # fmt: skip
        segment.use = Use.OPEN
        return segment

    def _retire(self, segment: Segment, use: Use) -> None:
        if segment.writer is not None:
            segment.prefix = segment.writer.prefix()
        segment.writer, segment.use = None, use
        for owner in [o for o, s in self._open.items() if s is segment]:
            del self._open[owner]

    def _retire_orphans(self) -> None:
        """Lets go of the segments of sessions that have ended, for others to go on with."""
        live = {session.name for session in self._clients.sessions()}
        for (name, _), segment in list(self._open.items()):
            if name not in live:
                shared = any(s is segment and o[0] in live for o, s in self._open.items())
                if not shared and segment.appending == 0:
                    self._retire(segment, Use.PART)

    # ---- eviction -------------------------------------------------------------------------------

    def _evict_one(self, shards: list[Shard], length: int) -> bool:
        """Makes room for ``length`` bytes by evicting a segment that no live session reads; whether it did.

        A search that found nothing is not repeated for a second, unless sessions came or went: a
        job whose data set does not fit asks for every block that passes through.
        """
        if self.hopeless(length):
            return False
        self._retire_orphans()
        victims = self._victims(shards, length)
        for shard, segment in victims:
            self._free(shard, segment)
        if not victims:
            self._hopeless = (time.monotonic() + 1.0, self._clients.names(), length)
        return bool(victims)

    def _victims(self, shards: list[Shard], length: int) -> list[tuple[Shard, Segment]]:
        """What to evict: all empty segments, else one that is mostly dead, else the least recently used
        of those that nobody reads."""
        idle = self._idle(shards)
        usage = {id(b): self._index.segment_usage(a.number, b.number) for a, b in idle}
        empty = [(a, b) for a, b in idle if usage[id(b)][0] == 0]
        if empty:
            return empty
        # A shard that may take this payload and has no segment for it is full of blocks that were
        # replaced or evicted one by one.
        dead = [
            (a, b)
            for a, b in idle
            if self._stored(a) + length <= a.capacity and usage[id(b)][1] < _MOSTLY_DEAD * a.segment_size
        ]
        if dead:
            return [min(dead, key=lambda place: usage[id(place[1])][1])]
        return sorted(self._unused(idle), key=lambda place: self._used_ms(*place))[:1]

    @staticmethod
    def _idle(shards: list[Shard]) -> list[tuple[Shard, Segment]]:
        """The segments that nobody writes to."""
        return [
            (shard, segment)
            for shard in shards
            for segment in shard.segments
            if segment.use in (Use.FULL, Use.PART) and segment.appending == 0
        ]

    def _unused(self, idle: list[tuple[Shard, Segment]]) -> list[tuple[Shard, Segment]]:
        """Those of them that no live session reads."""
        live = self._clients.sessions()
        return [
            (a, b)
            for a, b in idle
            if not any(self._position(a, b) in s.touched or s.reads_below(b.prefix) for s in live)
        ]

    def _used_ms(self, shard: Shard, segment: Segment) -> int:
        return max(segment.written_ms, self._clients.touched_ms(self._position(shard, segment)))

    def _stored(self, shard: Shard) -> int:
        return self._index.shard_usage(shard.number)[1] + shard.pending

    def _free(self, shard: Shard, segment: Segment) -> None:
        blocks, size = self._index.segment_usage(shard.number, segment.number)
        segment.generation = self._index.forget(shard.number, segment.number)
        segment.use, segment.prefix = Use.FREE, ""
        try:
            shard.wipe(segment)
        except OSError as error:
            shard.failed(error)
        for session in self._clients.sessions():
            session.touched.discard(self._position(shard, segment))
        self.evicted_segments += blocks > 0
        self.evicted_bytes += size

    def remove(self, key: bytes, location: bytes) -> bool:
        """Takes one block out of the cache, on disk too; whether it was there."""
        return self.remove_all([(key, location)])[0] == 1

    def remove_all(self, blocks: Iterable[tuple[bytes, bytes]]) -> tuple[int, int]:
        """Takes ``(key, location)`` blocks out of the cache, on disk too: how many, and their bytes.

        The headers of each segment are gone through once, however many of its blocks are removed.
        """
        groups: defaultdict[tuple[int, int], list[tuple[bytes, bytes]]] = defaultdict(list)
        for key, location in blocks:
            place = int.from_bytes(location[0:2], "little"), int.from_bytes(location[4:8], "little")
            groups[place].append((key, location))
        count = size = 0
        for (shard, segment), group in groups.items():
            removed = self._remove_from(self._shards[shard], self._shards[shard].segments[segment], group)
            count += len(removed)
            size += sum(length_at(location) for _, location in removed)
        return count, size

    def _remove_from(
        self, shard: Shard, segment: Segment, blocks: list[tuple[bytes, bytes]]
    ) -> list[tuple[bytes, bytes]]:
        with self._lock:
            removed = [block for block in blocks if self._index.remove(*block)]
            if not removed:
                return []
            segment.appending += 1  # or it might be begun anew while its headers are marked
            self._hopeless = (0.0, frozenset(), 0)
        try:
            kill_blocks(
                shard.fd, shard.start_of(segment.number), shard.segment_size,
                [(key, int.from_bytes(location[12:16], "little")) for key, location in removed],
            )  # fmt: skip
        except OSError as error:
            # They may come back after a restart; then their version is checked as any other's.
            with self._lock:
                shard.failed(error)
        finally:
            with self._lock:
                segment.appending -= 1
                self._tell()
        return removed

    def usage(self) -> dict[str, int]:
        """Counts for ``status``."""
        with self._lock:
            return {
                "evicted_segments": self.evicted_segments,
                "evicted_bytes": self.evicted_bytes,
                "written_bytes": sum(s.written for s in self._shards),
            }


def _related(prefix: str, url: str) -> bool:
    """Whether a segment of ``prefix`` may take ``url`` without mixing buckets."""
    bucket = "/".join(url.split("/", 3)[:3]) + "/"
    return directory_of(prefix).startswith(bucket)


def _to_append(one: Incoming, sequence: int) -> tuple[bytes, str, str, int, int, int, int, Buffer]:
    block = one.block
    return (
        block.key, block.url, block.version, block.object_size, block.object_offset, block.checked_ms,
        sequence, one.data,
    )  # fmt: skip


def _now_ms() -> int:
    return int(time.time() * 1000)
