"""What is known of objects: size and version, and when the store last said so."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from functools import partial
from itertools import islice

import msgspec

from ioaccel._core._engine import BLOCK_SIZE, Index, block_key, version_hash
from ioaccel.engine.block import block_of
from ioaccel.engine.flights import Flight, Flights, Latch
from ioaccel.engine.walk import WAITS, Front, Walk
from ioaccel.errors import AccessDeniedError, StoreTimeoutError
from ioaccel.sources import ObjectInfo, Source
from ioaccel.sources.base import PAGE
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


class Objects:
    """Objects seen lately, and the ways to check their versions. Any thread."""

    def __init__(self, index: Index, flights: Flights, remove: Callable[[bytes, bytes], bool]) -> None:
        self._index = index
        self._flights = flights
        self._remove = remove  # takes a block out of the cache: its key, its location
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, Known] = OrderedDict()
        self._unlistable: set[bytes] = set()
        self._walks: dict[tuple[bytes, str], Walk] = {}

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
        objects (`ioaccel.engine.walk`). A lone object, or a store that may not be listed, is asked for
        each; but several lone ones in a directory are followed by a walk through it, in the background.
        """
        groups: dict[tuple[int, str], list[Target]] = defaultdict(list)
        for target in targets:
            groups[id(target.source), target.key.rpartition("/")[0]].append(target)
        results: dict[bytes, Known | Exception] = {}
        alone: list[Target] = []
        for (_, parent), group in groups.items():
            if not self._may_list(group[0]):
                alone += group
                continue
            walk = self._walk_of(group[0], parent, oldest_ms)
            asked = walk.ask(len(group))
            left = group
            if len(group) > 1:
                left = self._check_by_pages(walk, parent, group, oldest_ms, deadline, results)
            alone += left
            if left and asked >= _LONE_CHECKS:
                self._walk_on(walk, left[0], parent)
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

    def _walk_of(self, target: Target, parent: str, oldest_ms: int) -> Walk:
        """The walk through a directory: one that began late enough, or a new one."""
        directory = (target.identity, parent)
        with self._lock:
            walk = self._walks.get(directory)
            if walk is None or walk.begun_ms < oldest_ms:
                if len(self._walks) >= _MOST_DIRECTORIES:
                    self._walks.clear()
                walk = self._walks[directory] = Walk(now_ms())
            return walk

    def _check_by_pages(
        self,
        walk: Walk,
        parent: str,
        group: list[Target],
        oldest_ms: int,
        deadline: float,
        results: dict[bytes, Known | Exception],
    ) -> list[Target]:
        """Checks a directory's objects page by page; what it did not check so comes back."""
        todo = sorted(group, key=lambda t: t.key)
        for _ in range(WAITS):
            pages = walk.pages([target.key for target in todo])
            if walk.large or not pages or time.monotonic() > deadline:
                break
            latch = Latch()
            flights = [
                self._flights.start(
                    ("page", todo[0].identity, parent, walk.begun_ms, after),
                    self._page(walk, front, after, todo[0], parent, deadline),
                    latch,
                    governor=todo[0].governor,
                )
                for front, after in pages
            ]
            latch.wait_until(deadline)
            if any(isinstance(flight.error, AccessDeniedError) for flight in flights):
                self._list_no_more(todo[0])
            if any(flight.error is not None or not flight.done for flight in flights):
                break
            left = []
            for target in todo:
                known = self.get(target)
                if known is not None and known.checked_ms >= oldest_ms:
                    results[target.base] = known
                else:
                    left.append(target)
            if not left:
                return []
            walk.spread(len(todo) - len(left), [target.key for target in left])
            todo = left
        return todo

    def _list_no_more(self, target: Target) -> None:
        with self._lock:
            self._unlistable.add(target.identity)

    def _walk_on(self, walk: Walk, target: Target, parent: str) -> None:
        """Reads further pages of a directory's listing in the background, as far as that pays."""

        def work(front: Front) -> None:
            try:
                while walk.pays(front):
                    deadline = time.monotonic() + _PAGE_SECONDS
                    self._page(walk, front, front.after, target, parent, deadline)()
            except AccessDeniedError:
                self._list_no_more(target)
            finally:
                front.under_way = False

        for front in walk.begin():
            key = ("walk", target.identity, parent, walk.begun_ms, front.begun)
            self._flights.start(key, partial(work, front), Latch())

    def _page(  # type: ignore[no-untyped-def]
        self, walk: Walk, front: Front, after: str, target: Target, parent: str, deadline: float
    ):
        """Work that reads one page of a listing."""

        def work() -> None:
            asked_ms = now_ms()
            page = target.governor.call(
                target.url,
                lambda: next(islice(target.source.list(parent and parent + "/", after or None), 1), []),
                deadline,
            )
            for info in page:
                self.listed(block_key(target.identity, target.source.url(info.key)), info, asked_ms)
            # The marker of the directory itself is left out of a page.
            walk.read(front, after, page[-1].key if len(page) >= PAGE - 1 else None)

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
