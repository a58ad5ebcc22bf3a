"""``ioaccel warm`` chunk by chunk, on a cache that is made up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from ioaccel.cli.listing import Listing, Object
from ioaccel.cli.progress import Pace
from ioaccel.cli.warming import Tally, check_all, warm_all
from ioaccel.client.cache import ObjectInfo, Prefetched
from ioaccel.errors import ObjectNotFoundError

MIB = 1 << 20
LARGEST_EXTENT = 64 * MIB  # what an engine takes on at once


class MadeUpCache:
    """Does what the engine does to extents: stores, passes what has no room, and fails what is missing."""

    def __init__(self, sizes: dict[str, int], room: int = 1 << 60) -> None:
        self.sizes = sizes
        self.room = room
        self.cached = dict.fromkeys(sizes, 0)
        self.chunks: list[int] = []
        self.stats = 0

    def prefetch(self, extents: Iterable[tuple[str, int, int | None]], *, wait: bool) -> Prefetched:
        assert wait
        stored = passed = 0
        errors: list[Any] = []
        asked = list(extents)
        self.chunks.append(len(asked))
        for url, offset, length in asked:
            if url not in self.sizes:
                errors.append(ObjectNotFoundError(f"{url} does not exist", url=url))
                continue
            brought = self.sizes[url] - offset if length is None else length
            if brought > self.room:
                passed += 1
                continue
            if brought > LARGEST_EXTENT:  # its first block is fetched to find that out
                brought, passed = 4 * MIB, passed + 1
            else:
                stored += 1
            self.cached[url] += brought
            self.room -= brought
        return Prefetched(stored, passed, errors)

    def resident(self, urls: list[str]) -> list[int]:
        return [self.cached.get(url, 0) for url in urls]

    def stat(self, url: str) -> ObjectInfo:
        self.stats += 1
        return ObjectInfo(url, self.sizes[url], "v")


def warmed(cache: Any, objects: list[Object]) -> tuple[Tally, Pace]:
    known = [o.size for o in objects if o.size is not None]
    total = sum(known) if len(known) == len(objects) else None
    pace = Pace("objects", len(objects), total)
    return warm_all(cache, Listing("s3://b/", len(objects), total, iter(objects)), pace), pace


def counts(tally: Tally) -> tuple[int, int, int]:
    return tally.stored, tally.passed, tally.failed


@pytest.mark.parametrize("known", [True, False])
def test_everything_is_stored(known: bool) -> None:
    sizes = {f"s3://b/{n}": n % 7 for n in range(2000)}
    cache = MadeUpCache(sizes)
    tally, pace = warmed(cache, [Object(u, s if known else None) for u, s in sizes.items()])
    assert (counts(tally), tally.stored_bytes) == ((2000, 0, 0), sum(sizes.values()))
    assert (pace.count, pace.bytes) == (2000, sum(sizes.values()))
    assert (cache.chunks, cache.stats) == ([512, 512, 512, 464], 0)


def test_no_objects() -> None:
    tally, _ = warmed(MadeUpCache({}), [])
    assert counts(tally) == (0, 0, 0)


@pytest.mark.parametrize("known", [True, False])
def test_large_objects_are_asked_for_in_pieces(known: bool) -> None:
    sizes = {"s3://b/large": 1000 * MIB + 1, "s3://b/small": 1}
    cache = MadeUpCache(sizes)
    tally, pace = warmed(cache, [Object(u, s if known else None) for u, s in sizes.items()])
    assert counts(tally) == (2, 0, 0)
    assert all(cache.cached[url] >= size for url, size in sizes.items())
    assert pace.count == 2


def test_it_ends_when_the_cache_is_full() -> None:
    sizes = {f"s3://b/{n:05d}": 1000 for n in range(20_000)}
    cache = MadeUpCache(sizes, room=700_000)
    tally, _ = warmed(cache, [Object(u, s) for u, s in sizes.items()])
    assert (counts(tally), tally.stored_bytes) == ((700, 19_300, 0), 700_000)
    assert len(cache.chunks) == 3, "a chunk that brought nothing is the last one"


def test_it_goes_on_until_the_engine_may_evict() -> None:
    """An engine evicts what others left after the session has asked for 256 blocks: not yet, here."""
    sizes = {f"s3://b/{n:05d}": 32 * MIB for n in range(100)}

    class Evicts(MadeUpCache):
        def prefetch(self, extents: Iterable[tuple[str, int, int | None]], *, wait: bool) -> Prefetched:
            if sum(self.chunks) * 8 >= 256:
                self.room = 1 << 60
            return super().prefetch(extents, wait=wait)

    cache = Evicts(sizes, room=0)
    tally, _ = warmed(cache, [Object(u, s) for u, s in sizes.items()])
    assert counts(tally) == (100, 0, 0), "what passed before is asked for again"
    assert sum(cache.chunks) < 200


def test_failures_are_counted_once_an_object() -> None:
    missing = [Object(f"s3://b/missing{n}", 100 * MIB) for n in range(3)]
    tally, _ = warmed(
        MadeUpCache({"s3://b/x": 1}), [*missing, Object("s3://b/x", 1), Object("s3://b/y", None)]
    )
    assert counts(tally) == (1, 0, 4)
    assert [e.url for e in tally.errors] == [*(o.url for o in missing), "s3://b/y"]


def test_check_counts_what_is_cached_as_a_whole() -> None:
    sizes = {"s3://b/whole": 10, "s3://b/half": 10, "s3://b/empty": 0, "s3://b/not": 10}
    cache: Any = MadeUpCache(sizes)
    cache.cached |= {"s3://b/whole": 10, "s3://b/half": 5}
    objects = [Object(u, s) for u, s in sizes.items()]
    tally = check_all(cache, Listing("s3://b/", 4, 30, iter(objects)), Pace("objects", 4, 30))
    assert (tally.stored, tally.stored_bytes, cache.chunks) == (2, 15, [])
