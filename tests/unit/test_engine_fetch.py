"""What the engine fetches, of a source that counts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ioaccel import wire
from ioaccel.engine.engine import Engine
from ioaccel.engine.item import Item, Terms
from ioaccel.engine.landing import Landing
from ioaccel.engine.shard import open_shard
from ioaccel.sources import Fetched, ObjectInfo, SourceSpec, resolve

SIZE = 500_000
KEPT = 10


class Counting:
    """A source whose objects all are of one size."""

    def __init__(self) -> None:
        self.gets: list[str] = []

    def url(self, key: str) -> str:
        return f"s3://bucket/{key}"

    def get(self, key: str, start: int, stop: int, version: str | None = None) -> Fetched:
        self.gets.append(key)
        time.sleep(0.02)
        return Fetched(ObjectInfo(key, SIZE, '"etag"'), start, bytes(SIZE))


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
