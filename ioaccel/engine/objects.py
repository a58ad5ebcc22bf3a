"""What is known of objects: size and version, and when the store last said so."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import msgspec

from ioaccel._core._engine import BLOCK_SIZE, Index, block_key, version_hash
from ioaccel.engine.block import block_of
from ioaccel.engine.flights import Flight, Flights, Latch
from ioaccel.errors import AccessDeniedError, StoreTimeoutError
from ioaccel.sources import ObjectInfo, Source
from ioaccel.sources.governor import Governor

# 100,000 objects are 30 MB; what falls out is asked of the index, or of the store again.
_MOST_KNOWN = 100_000

# Directories of which it is remembered that their first page was read.
_MOST_DIRECTORIES = 10_000

# So many objects of a directory are checked one by one, before all of it is: a job that reads one file
# each of a thousand directories lists none of them.
_LONE_CHECKS = 4

# What one page of a walk may take; nobody waits for it.
_PAGE_SECONDS = 60.0

# Behind every key.
_LAST_KEY = "\U0010ffff"

# Pages of a listing that are asked for at once, when many neighbours are to be checked.
_PAGES_AT_ONCE = 8


class Target(msgspec.Struct, frozen=True):
    """One object of one store, ready to be read."""

    url: str
    key: str  # in the store
    base: bytes  # key of its block 0 in the index
    identity: bytes
    source: Source
    governor: Governor


class Known(msgspec.Struct, frozen=True):
    """What the store said of an object, and when (wall clock, ms)."""

    size: int
    version: str | None  # None: only its hash is known, from the index
    version_hash: int
    checked_ms: int


@dataclass(slots=True)
class _Walk:
    """How far the versions in one directory have been checked, object by object and page by page."""

    oldest_ms: int  # for sessions that began then, or before
    lone: int = 0
    pages: int = 0
    after: str = ""
    under_way: bool = False
    done: bool = False


class Objects:
    """Objects seen lately, and the ways to check their versions. Any thread."""

    def __init__(self, index: Index, flights: Flights, remove: Callable[[bytes, bytes], bool]) -> None:
        self._index = index
        self._flights = flights
        self._remove = remove  # takes a block out of the cache: its key, its location
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, Known] = OrderedDict()
        self._unlistable: set[bytes] = set()
        self._begun: dict[tuple[bytes, str], int] = {}  # when a directory's first page was asked for
        self._walks: dict[tuple[bytes, str], _Walk] = {}

    def get(self, target: Target) -> Known | None:
        return self._known.get(target.base)  # without the lock: one look into a dict is atomic

    def size(self, base: bytes) -> int | None:
        """The size of an object, if it was seen lately."""
        known = self._known.get(base)
        return known.size if known is not None else None

    def note(self, base: bytes, info: ObjectInfo, checked_ms: int) -> Known:
        """Remembers what the store said at ``checked_ms``, and forgets what is cached of another version.

        What is known from then on: a slow answer does not undo what a later question has found out.
        """
        known = Known(info.size, info.version, version_hash(info.version), checked_ms)
        with self._lock:
            before = self._known.get(base)
            if before is not None and before.checked_ms > checked_ms:
                return before
            self._known[base] = known
            self._known.move_to_end(base)
            if len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)
        self._drop_others(base, known, before)
        return known

    def _drop_others(self, base: bytes, known: Known, before: Known | None) -> None:
        """Takes blocks of an older version out of the index: what one reader has learned, all are told."""
        entry = self._index.get(base)
        sizes = [before.size] if before is not None and before.version_hash != known.version_hash else []
        if entry is not None and entry[3] != known.version_hash:
            sizes.append(entry[2])
        for number in range(-(-max(sizes, default=0) // BLOCK_SIZE)):
            key = block_of(base, number)
            entry = self._index.get(key)
            if entry is not None and entry[3] != known.version_hash:
                self._remove(key, entry[0])

    def listed(self, base: bytes, info: ObjectInfo, checked_ms: int) -> None:
        """`note`, and tells the index that a cached object is still current: readers need not ask."""
        known = self.note(base, info, checked_ms)
        entry = self._index.get(base)
        if entry is not None and entry[3] == known.version_hash and entry[2] == known.size:
            self._index.touch(base, entry[0], known.checked_ms, False)

    def forget(self, target: Target) -> None:
        with self._lock:
            self._known.pop(target.base, None)

    # ---- checking -------------------------------------------------------------------------------

    def check(self, targets: list[Target], oldest_ms: int, deadline: float) -> dict[bytes, Known | Exception]:
        """Asks the store for the versions of objects, by the cheapest means.

        Neighbours are checked together: a page of a listing costs one request and checks a thousand
        objects. A lone object, or a store that may not be listed, is asked for each; but several lone
        ones in a directory are followed by a walk through it, in the background.
        """
        groups: dict[tuple[int, str], list[Target]] = defaultdict(list)
        for target in targets:
            groups[id(target.source), target.key.rpartition("/")[0]].append(target)
        results: dict[bytes, Known | Exception] = {}
        alone: list[Target] = []
        for (_, parent), group in groups.items():
            if not self._may_list(group[0]):
                alone += group
            elif len(group) > 1:
                alone += self._check_by_pages(parent, group, oldest_ms, deadline, results)
            else:
                alone += group
                self._note_lone(group[0], parent, oldest_ms)
        latch = Latch()
        flights = [
            (t, self._flights.start(("stat", t.base), self._stat(t, deadline), latch, governor=t.governor))
            for t in alone
        ]
        latch.wait_until(deadline)
        for target, flight in flights:
            results[target.base] = _outcome(flight, target)
        return results

    def _may_list(self, target: Target) -> bool:
        return target.url.startswith(("s3://", "gs://", "az://")) and target.identity not in self._unlistable

    def _stat(self, target: Target, deadline: float):  # type: ignore[no-untyped-def]
        def work() -> Known:
            asked_ms = now_ms()
            info = target.governor.call(target.url, lambda: target.source.stat(target.key), deadline)
            return self.note(target.base, info, asked_ms)

        return work

    def _check_by_pages(
        self,
        parent: str,
        group: list[Target],
        oldest_ms: int,
        deadline: float,
        results: dict[bytes, Known | Exception],
    ) -> list[Target]:
        """Checks a directory's objects page by page; those it could not check come back."""
        one = group[0]
        todo = sorted(group, key=lambda t: t.key)
        unlisted: list[Target] = []
        starts = self._first_start(one, parent, oldest_ms)
        a_page = 1  # how many of them one page checks
        while todo and time.monotonic() < deadline:
            # The listing begins behind `after`: the key without its last character stands before it.
            step = max(a_page, len(todo) // _PAGES_AT_ONCE)
            starts = starts or [t.key[:-1] for t in todo[::step]]
            latch = Latch()
            flights = [
                self._flights.start(
                    ("page", one.identity, parent, after),
                    self._page(one, parent, after, deadline),
                    latch,
                    governor=one.governor,
                )
                for after in starts
            ]
            latch.wait_until(deadline)
            for flight in flights:
                if flight.error is not None or not flight.done:
                    if isinstance(flight.error, AccessDeniedError):
                        with self._lock:
                            self._unlistable.add(one.identity)
                    return todo + unlisted
            left = []
            for target in todo:
                known = self.get(target)
                if known is not None and known.checked_ms >= oldest_ms:
                    results[target.base] = known
                elif any(f.result[0] <= target.key <= f.result[1] for f in flights):
                    unlisted.append(target)  # gone, or in an order of the store's own: ask for it alone
                else:
                    left.append(target)
            a_page = max(1, (len(todo) - len(left)) // len(flights))
            todo, starts = left, []
        return todo + unlisted

    def _note_lone(self, target: Target, parent: str, oldest_ms: int) -> None:
        """Counts a check of one object; after a few, all of its directory is checked, as far as that pays."""
        directory = (target.identity, parent)
        with self._lock:
            walk = self._walks.get(directory)
            if walk is None or walk.oldest_ms < oldest_ms:
                if len(self._walks) >= _MOST_DIRECTORIES:
                    self._walks.clear()
                walk = self._walks[directory] = _Walk(oldest_ms)
            walk.lone += 1
            if walk.under_way or walk.done or walk.lone < _LONE_CHECKS:
                return
            walk.under_way = True
        self._flights.start(("walk", directory), lambda: self._walk(walk, target, parent), Latch())

    def _walk(self, walk: _Walk, target: Target, parent: str) -> None:
        """Reads page after page of a directory's listing, no more of them than objects were checked alone."""
        try:
            while walk.pages < walk.lone:
                _, last = self._page(target, parent, walk.after, time.monotonic() + _PAGE_SECONDS)()
                walk.pages += 1
                walk.after = last
                walk.done = last == _LAST_KEY
                if walk.done:
                    return
        except AccessDeniedError:
            with self._lock:
                self._unlistable.add(target.identity)
        finally:
            walk.under_way = False

    def _first_start(self, target: Target, parent: str, oldest_ms: int) -> list[str]:
        """Where to begin: at the first object, unless that page was read. It may be the only one."""
        with self._lock:
            return [] if self._begun.get((target.identity, parent), 0) >= oldest_ms else [""]

    def _page(self, target: Target, parent: str, after: str, deadline: float):  # type: ignore[no-untyped-def]
        """Work that reads one page of a listing: the range of keys that it checks."""

        def work() -> tuple[str, str]:
            asked_ms = now_ms()
            page = target.governor.call(
                target.url,
                lambda: next(islice(target.source.list(parent and parent + "/", after or None), 1), []),
                deadline,
            )
            for info in page:
                self.listed(block_key(target.identity, target.source.url(info.key)), info, asked_ms)
            if not after:
                with self._lock:
                    if len(self._begun) >= _MOST_DIRECTORIES:
                        self._begun.clear()
                    self._begun[target.identity, parent] = asked_ms
            return after, page[-1].key if len(page) >= 1000 else _LAST_KEY

        return work


def _outcome(flight: Flight, target: Target) -> Known | Exception:
    if not flight.done:
        return StoreTimeoutError(
            f"{target.url}: the store did not say its version in time; check that it is reachable",
            url=target.url,
            attempts=1,
        )
    if flight.error is not None:
        return flight.error
    known: Known = flight.result
    return known


def now_ms() -> int:
    """The wall clock, which is the clock of sessions and versions."""
    return int(time.time() * 1000)
