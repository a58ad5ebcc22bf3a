"""What the engine fetches, of a source that counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support import wait_for

from ioaccel import wire
from ioaccel._core._engine import BLOCK_SIZE
from ioaccel.engine.engine import Engine
from ioaccel.engine.item import Item, Terms
from ioaccel.engine.landing import Landing
from ioaccel.engine.passing import SHARE, Ahead
from ioaccel.engine.prefetch import Settled, Wave
from ioaccel.engine.shard import open_shard
from ioaccel.engine.transit import ANSWER_BYTES
from ioaccel.sources import Fetched, ObjectInfo, SourceSpec, resolve

SIZE = 500_000
KEPT = 10
LARGE = (9 << 20) + 1  # three blocks


class Counting:
    """A source whose objects all are of one size, but for those that are called large."""

    def __init__(self) -> None:
        self.gets: list[str] = []
        self.fetched = 0
        self.bad: set[str] = set()
        self.gate = threading.Event()  # objects of that name wait for it
        self.gate.set()

    def url(self, key: str) -> str:
        return f"s3://bucket/{key}"

    def get(self, key: str, start: int, stop: int, version: str | None = None) -> Fetched:
        size = LARGE if key.startswith("large") else SIZE
        self.gets.append(key)
        if key in self.bad:
            raise PermissionError("denied")
        assert key != "gate" or self.gate.wait(20)
        time.sleep(0.02)
        data = bytes(min(stop, size) - start)
        self.fetched += len(data)
        return Fetched(ObjectInfo(key, size, '"etag"'), start, data)


@pytest.fixture
def spec() -> SourceSpec:
    return resolve("s3", {"key": "a", "secret": "b", "endpoint_url": "http://127.0.0.1:1"})


@pytest.fixture
def source() -> Counting:
    return Counting()


@pytest.fixture
def engine(tmp_path: Path, spec: SourceSpec, source: Any) -> Iterator[Engine]:
    engine = Engine([open_shard(0, tmp_path, KEPT * SIZE, [str(tmp_path)])])
    engine.targets._sources[spec.identity, "bucket"] = source
    engine.attach("session")
    yield engine
    engine.close()


def test_what_was_asked_for_before_any_size_was_known_has_one_when_its_turn_comes(
    engine: Engine, spec: SourceSpec, source: Counting
) -> None:
    """A wave is asked for at once, and fetched as the governor allows: the first show what others weigh."""
    engine.targets.governors[spec.identity].limit = 4.0
    extents: list[wire.Extent] = [(f"s3://bucket/{n}", 0, None) for n in range(40)]
    answer = engine.prefetch(wire.Prefetch("session", {"s3": spec}, extents, 0, 30.0, True))
    assert (answer.stored, answer.passed, answer.failures) == (KEPT, 30, [])
    assert len(source.gets) == KEPT


def test_a_hedge_of_what_passes_by_is_no_second_admission(engine: Engine, spec: SourceSpec) -> None:
    """It could be refused, and end the flight as if there was nothing to come, with the first on its way."""
    sources = {"s3": spec}
    extents: list[wire.Extent] = [(f"s3://bucket/{n}", 0, None) for n in range(KEPT)]
    engine.prefetch(wire.Prefetch("session", sources, extents, 0, 30.0, True))
    engine.passing.turn("session", "plan", 1)
    ahead = engine.passing.leave("session", "plan", time.monotonic(), 16, full=True)
    assert ahead is not None
    [item] = engine.targets.items([("s3://bucket/more", 0, None)], sources)
    assert isinstance(item, Item)
    terms = Terms(engine.clients.session("session"), 0, time.monotonic() + 30, False, True, ahead)
    of_the_flight: list[Any] = []
    runs = [
        engine.fetcher._blocks.fetch(item.target, 0, None, SIZE, terms, of_the_flight),
        engine.passing.turn("session", "plan", 2),  # from here on nothing more is admitted
        engine.fetcher._blocks.fetch(item.target, 0, None, SIZE, terms, of_the_flight),
    ]
    assert isinstance(runs[0], Landing)
    assert isinstance(runs[2], Landing)
    assert ahead.promised == SIZE


def fetch(engine: Engine, spec: SourceSpec, extents: list[wire.Extent]) -> list[int | None]:
    """Asks for extents as a reader does: how many blocks are answered of each, None if it is deferred."""
    request = wire.Fetch("session", {"s3": spec}, extents, 0, 30.0, [], None)
    results = engine.fetch(request).results
    assert all(isinstance(each, (wire.Found, wire.Deferred)) for each in results)
    return [len(each.locations) // 20 if isinstance(each, wire.Found) else None for each in results]


@pytest.fixture
def full(engine: Engine, spec: SourceSpec, source: Counting) -> Engine:
    """An engine whose cache has no room."""
    fetch(engine, spec, [(f"s3://bucket/{n}", 0, None) for n in range(KEPT)])
    source.gets.clear()
    source.fetched = 0
    return engine


def test_parts_of_one_block_past_a_full_cache_cost_one_request(
    full: Engine, spec: SourceSpec, source: Counting
) -> None:
    """Two at once, as members of a shard; then as an archive is read, that ends with its directory."""
    url = "s3://bucket/archive"
    assert fetch(full, spec, [(url, 0, 100), (url, 200, 100)]) == [1, 1]
    for offset, length in ((0, 0), (SIZE - 22, 22), (SIZE - 30_000, 30_000), (0, 64), (100, 1000)):
        fetch(full, spec, [(url, offset, length)])
    assert source.gets == ["archive"]
    assert (
        fetch(full, spec, [(f"s3://bucket/{n}", 5 * n, 5) for n in range(40, 60) for _ in "ab"]) == [1] * 40
    )
    assert len(source.gets) == 21


def test_an_answer_holds_so_much_that_it_can_be_copied(
    full: Engine, spec: SourceSpec, source: Counting
) -> None:
    """Whatever was in transit before, what is asked again comes; and no block twice, where all together are
    not more than the ring: before the first has come, objects are taken for smaller than they are."""
    todo: list[wire.Extent] = [(f"s3://bucket/large-{n}", 0, None) for n in range(20)]
    answers = 0
    while todo:
        found = fetch(full, spec, todo)
        assert sum(blocks or 0 for blocks in found) * BLOCK_SIZE <= 2 * ANSWER_BYTES
        assert set(found) <= {3, None}
        todo = [extent for extent, blocks in zip(todo, found, strict=True) if blocks is None]
        answers += 1
    assert source.fetched == 20 * LARGE
    assert answers < 15


def test_an_object_larger_than_an_answer_is_asked_for_in_pieces(
    full: Engine, spec: SourceSpec, source: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ioaccel.engine.fetch.ANSWER_BYTES", 2 * BLOCK_SIZE)
    url = "s3://bucket/large"
    assert fetch(full, spec, [(url, 0, None)]) == [None]
    assert fetch(full, spec, [(url, 0, BLOCK_SIZE), (url, BLOCK_SIZE, BLOCK_SIZE)]) == [1, 1]
    assert fetch(full, spec, [(url, 2 * BLOCK_SIZE, None)]) == [1]
    assert source.fetched == LARGE


def wave(engine: Engine, spec: SourceSpec, session: str, ahead: Ahead, keys: list[str]) -> Settled:
    """A wave of a plan, of whole objects, as `Prefetches` sends it."""
    extents: list[wire.Extent] = [(f"s3://bucket/{key}", 0, None) for key in keys]
    request = wire.Prefetch(session, {"s3": spec}, extents, 0, 30.0, plan=("plan", 1))
    return engine._prefetch_wave(Wave(request, extents, ahead))


def leave(engine: Engine, session: str) -> Ahead:
    engine.passing.turn(session, "plan", 1)
    ahead = engine.passing.leave(session, "plan", time.monotonic(), 4, full=True)
    assert ahead is not None
    return ahead


def test_a_plan_that_has_room_is_not_refused_by_one_that_has_none(
    full: Engine, spec: SourceSpec, source: Counting
) -> None:
    """Two jobs ask for the same, and the flight of the first has not left yet."""
    full.attach("other")
    without, with_room = leave(full, "session"), leave(full, "other")
    without.plan.bytes += 10 * SHARE - without.reserved
    without.reserved = 0
    [item] = full.targets.items([("s3://bucket/gate", 0, None)], {"s3": spec})
    assert isinstance(item, Item)
    item.target.governor.limit = 1.0
    source.gate.clear()
    with ThreadPoolExecutor(3) as pool:
        pool.submit(fetch, full, spec, [("s3://bucket/gate", 0, None)])
        wait_for(lambda: source.gets)
        first = pool.submit(wave, full, spec, "session", without, ["a", "b"])
        wait_for(lambda: len(full.flights._flights) == 3)
        second = pool.submit(wave, full, spec, "other", with_room, ["a", "b"])
        wait_for(lambda: sum(len(flight.waiters) for flight in full.flights._flights.values()) == 5)
        source.gate.set()
    assert (first.result().refused, second.result().refused) == ([0, 1], [0, 1])
    full.passing.end(with_room)
    assert wave(full, spec, "other", leave(full, "other"), ["a", "b"]).refused == []
    assert source.gets == ["gate", "a", "b"]


def test_what_fails_is_not_asked_for_again(full: Engine, spec: SourceSpec, source: Counting) -> None:
    """One block fails, and for another there is no room yet."""
    fetch(full, spec, [("s3://bucket/large", 0, 1)])  # three blocks, as is known from now on
    source.bad.add("large")
    ahead = leave(full, "session")
    ahead.plan.bytes += 2 * SHARE  # there is room for what is set aside, one block, and no other
    assert ahead.reserved == BLOCK_SIZE
    assert wave(full, spec, "session", ahead, ["large"]) == Settled(None)
    assert len(ahead.refused) == 1
    assert source.gets == ["large", "large"]
