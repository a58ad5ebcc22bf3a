"""Where blocks that came together go: each is somewhere, whole, and no room is set aside any more."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ioaccel._core._engine import BLOCK_SIZE, DATA_START, Writer, block_key
from ioaccel.engine.block import Block
from ioaccel.engine.engine import Engine
from ioaccel.engine.sessions import Session
from ioaccel.engine.shard import Segment, Shard, open_shard
from ioaccel.engine.space import Incoming
from ioaccel.engine.transit import SEGMENT_SIZE

IDENTITY = bytes(16)


def engine_of(directory: Path, *capacities: int) -> Engine:
    return Engine([open_shard(n, directory / str(n), size, []) for n, size in enumerate(capacities)])


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = engine_of(tmp_path, 20 << 20)
    yield engine
    engine.close()


def incoming(number: int, length: int, session: Session) -> Incoming:
    url = f"s3://b/{number}"
    data = os.urandom(min(length, 64)).ljust(length, b"x")
    return Incoming(Block(block_key(IDENTITY, url), url, "v", length, 0, 1), data, length, session)


def at(engine: Engine, location: bytes, length: int) -> bytes:
    """What stands at a location."""
    shard = int.from_bytes(location[0:2], "little")
    segment = int.from_bytes(location[4:8], "little")
    offset = int.from_bytes(location[12:16], "little")
    if shard < len(engine.shards):
        return os.pread(engine.shards[shard].fd, length, engine.shards[shard].start_of(segment) + offset)
    fd = engine.transit.reader_fd()
    try:
        return os.pread(fd, length, DATA_START + segment * SEGMENT_SIZE + offset)
    finally:
        os.close(fd)


def place(location: bytes) -> bytes:
    """Without the mark that it comes fresh from the store."""
    return location[:2] + location[4:]


def assert_at_rest(engine: Engine) -> None:
    for shard in engine.shards:
        assert shard.pending == 0
        assert all(segment.appending == 0 for segment in shard.segments)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, BLOCK_SIZE), min_size=1, max_size=12), min_size=1, max_size=5),
    st.lists(st.integers(5, 12), min_size=1, max_size=2),
)
def test_every_block_of_a_batch_is_somewhere(batches: list[list[int]], blocks: list[int]) -> None:
    with TemporaryDirectory() as directory:
        engine = engine_of(Path(directory), *(n * BLOCK_SIZE for n in blocks))
        page = engine.clients.join("one")  # what nobody lives to read may be evicted
        session = engine.clients.session("one")
        stored = number = 0
        for lengths in batches:
            batch = [incoming(number + n, length, session) for n, length in enumerate(lengths)]
            number += len(batch)
            for one, outcome in zip(batch, engine.space.store(batch), strict=True):
                assert isinstance(outcome, tuple), outcome
                location, cached = outcome
                assert at(engine, location, one.length) == one.data
                entry = engine.index.get(one.block.key)
                assert (entry is not None and place(entry[0]) == place(location)) == cached
                stored += one.length if cached else 0
            assert_at_rest(engine)
            usage = [engine.index.shard_usage(shard.number)[1] for shard in engine.shards]
            assert sum(usage) == stored  # the session reads it all: nothing was evicted
            assert all(used <= shard.capacity for used, shard in zip(usage, engine.shards, strict=True))
        engine.clients.leave(page)
        engine.close()


def test_room_is_what_is_free_and_what_nobody_reads(engine: Engine) -> None:
    assert engine.space.room() == 20 << 20
    page = engine.clients.join("one")
    engine.space.store([incoming(n, 1_500_000, engine.clients.session("one")) for n in range(12)])
    assert engine.space.room() == (20 << 20) - 12 * 1_500_000
    engine.space.store([incoming(n, 1_500_000, engine.clients.session("one")) for n in range(12, 15)])
    assert engine.space.room() == 0, "a search has found none"
    engine.clients.leave(page)
    assert engine.space.room() == 20 << 20


def test_a_batch_goes_on_in_the_next_segment(engine: Engine) -> None:
    session = Session("one")
    batch = [incoming(n, 1_500_000, session) for n in range(13)]  # a segment takes five
    outcomes = engine.space.store(batch)
    assert [outcome[1] for outcome in outcomes if isinstance(outcome, tuple)] == [True] * 13
    assert_at_rest(engine)


def test_a_block_that_cannot_be_cached_leaves_the_others_alone(engine: Engine) -> None:
    session = Session("one")
    batch = [incoming(n, 100, session) for n in range(3)]
    batch[1] = batch[1]._replace(block=Block(bytes(16), "s3://b/" + "u" * 5000, "v", 100, 0, 1))
    first, bad, last = engine.space.store(batch)
    assert isinstance(bad, ValueError)
    assert isinstance(first, tuple)
    assert isinstance(last, tuple)
    assert (first[1], last[1]) == (True, True)
    assert_at_rest(engine)


def test_a_block_that_finds_no_place_leaves_the_others_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    writable = engine.space._writable

    def short_of_memory(shard: Shard, url: str, session: Session) -> Segment | None:
        if url.endswith("/1"):
            raise MemoryError
        return writable(shard, url, session)

    monkeypatch.setattr(engine.space, "_writable", short_of_memory)
    session = Session("one")
    first, bad, last = engine.space.store([incoming(n, 100, session) for n in range(3)])
    assert isinstance(bad, MemoryError)
    assert isinstance(first, tuple)
    assert isinstance(last, tuple)
    assert_at_rest(engine)


def test_what_a_full_disk_does_not_take_passes_through(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        """Stands for the writer of a disk that is full after two blocks."""

        def __init__(self, writer: Writer) -> None:
            self._writer = writer

        def append_all(self, index: object, blocks: list[object]) -> list[object]:
            written = self._writer.append_all(index, blocks[:2])  # type: ignore[arg-type]
            return [*written, *(OSError(errno.ENOSPC, "full") for _ in blocks[2:])]

        def prefix(self) -> str:
            return self._writer.prefix()

    session = Session("one")
    engine.space.store([incoming(0, 100, session)])
    segment = next(s for s in engine.shards[0].segments if s.writer is not None)
    assert segment.writer is not None
    monkeypatch.setattr(segment, "writer", Full(segment.writer))
    batch = [incoming(n, 1000, session) for n in range(1, 6)]
    outcomes = engine.space.store(batch)
    assert [outcome[1] for outcome in outcomes if isinstance(outcome, tuple)] == [True] * 2 + [False] * 3
    for one, outcome in zip(batch, outcomes, strict=True):
        assert isinstance(outcome, tuple)
        assert at(engine, outcome[0], one.length) == one.data
    assert_at_rest(engine)
    assert engine.shards[0].health.value == "disk full"
