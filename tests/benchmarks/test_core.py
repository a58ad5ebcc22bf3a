"""The core and the messages, without a store: index, segments, checksums, wire."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import google_crc32c
import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from support import payload
from support.core import IDENTITY, NOW_MS, CoreCache

from ioaccel import wire
from ioaccel._core._client import Buffer, Request, View, read
from ioaccel._core._engine import Index, Writer, block_key, recover_segment, verify_block
from ioaccel._core._hash import crc32c, siphash128
from ioaccel.sources.governor import Governor
from ioaccel.sources.spec import resolve

SIZE = 110_000
URLS = [f"s3://bucket/train/n01440764/{n:06d}.jpg" for n in range(64)]


@pytest.fixture
def core() -> Iterator[CoreCache]:
    """A segment with a batch of images."""
    core = CoreCache()
    for url in URLS:
        core.put(url, payload(url, SIZE))
    yield core
    core.close()


@pytest.fixture
def view(core: CoreCache) -> View:
    return core.view()


# ---- reading ------------------------------------------------------------------------------------


def test_key_of_a_url(benchmark: BenchmarkFixture, core: CoreCache) -> None:
    assert benchmark(core.ring.key, URLS[0]) == block_key(IDENTITY, URLS[0])


def test_index_get(benchmark: BenchmarkFixture, core: CoreCache) -> None:
    entry = benchmark(core.index.get, block_key(IDENTITY, URLS[0]))
    assert entry[1] == SIZE


def test_hit_4k(benchmark: BenchmarkFixture, core: CoreCache, view: View) -> None:
    assert benchmark(read, view, core.ring, URLS[0], 8192, 4096, 0) == payload(URLS[0], SIZE)[8192:12288]


def test_look_up_a_batch(benchmark: BenchmarkFixture, core: CoreCache, view: View) -> None:
    request = Request(URLS, core.ring, str)
    assert benchmark(request.lookup, view, 0) == 0  # none is missing
    assert request.missing() == []


def test_copy_a_batch(benchmark: BenchmarkFixture, core: CoreCache, view: View) -> None:
    request = Request(URLS, core.ring, str)
    request.lookup(view, 0)
    offsets = np.empty(len(URLS) + 1, np.int64)
    buffer = np.frombuffer(memoryview(Buffer(request.offsets(offsets))), np.uint8)
    assert benchmark(request.copy, buffer, 2)
    assert bytes(buffer[-SIZE:]) == payload(URLS[-1], SIZE)


# ---- writing ------------------------------------------------------------------------------------


def test_append_and_publish(benchmark: BenchmarkFixture, core: CoreCache) -> None:
    """One image; whoever fills the segment starts it anew."""
    data = payload("appended", SIZE)
    key = block_key(IDENTITY, "appended")

    def append(writer: Writer, index: Index) -> bytes | None:
        return writer.append(index, key, "appended", "v1", SIZE, 0, NOW_MS, 1000, data)

    def fresh() -> tuple[tuple[Writer, Index], dict[str, Any]]:
        if core.writer.room < 2 * SIZE:
            core.start(1 - core.number)
        return (core.writer, core.index), {}

    location = benchmark.pedantic(append, setup=fresh, rounds=300)
    entry = core.index.get(key)
    assert location is not None
    assert entry is not None
    assert entry[0][4:] == location[4:]  # but for whether these bytes were fetched just now


def test_recover_a_segment(benchmark: BenchmarkFixture, core: CoreCache) -> None:
    index = Index([3], [core.segment_size])
    found = benchmark(recover_segment, index, core.fd, core.start_of(0), core.segment_size, 0, 0, 1)
    assert index.usage() == (len(URLS), len(URLS) * SIZE)
    assert found[0] == len(URLS)


def test_verify_a_block(benchmark: BenchmarkFixture, core: CoreCache) -> None:
    key = block_key(IDENTITY, URLS[0])
    entry = core.index.get(key)
    assert entry is not None
    location, length, _, version, _, _ = entry
    offset = int(np.frombuffer(location, np.uint32)[3])
    arguments = (core.fd, core.start_of(0), core.segment_size, key, version, offset, length)
    assert benchmark(verify_block, *arguments) is True


def test_crc32c_of_an_image(benchmark: BenchmarkFixture) -> None:
    data = payload("an image", SIZE)
    assert benchmark(crc32c, data) == google_crc32c.value(data)


def test_siphash_of_a_url(benchmark: BenchmarkFixture) -> None:
    digest = benchmark(siphash128, bytes(range(16)), URLS[0].encode())
    assert digest != siphash128(bytes(range(16)), URLS[1].encode())
    assert len(digest) == 16


# ---- asking -------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with ExitStack() as stack:
        ends = socket.socketpair()
        for end in ends:
            end.settimeout(10)
            stack.enter_context(end)
        yield ends


def test_message_of_a_batch(benchmark: BenchmarkFixture, pair: tuple[socket.socket, socket.socket]) -> None:
    """What a batch of misses asks, encoded, sent and decoded."""
    spec = resolve("s3", {"key": "k", "secret": "s"}, {})
    asked = wire.Fetch("session", {"s3": spec}, [(url, 0, None) for url in URLS], 0, 60.0)

    def work() -> wire.Request:
        wire.send(pair[0], asked)
        return wire.receive_request(pair[1])

    assert benchmark(work) == asked


def test_answer_to_a_batch(benchmark: BenchmarkFixture, pair: tuple[socket.socket, socket.socket]) -> None:
    answer = wire.Answers([wire.Found(SIZE, 1 << 60, bytes(24)) for _ in URLS])

    def work() -> tuple[wire.Answer, list[int]]:
        wire.send(pair[0], answer)
        return wire.receive_answer(pair[1])

    assert benchmark(work) == (answer, [])


def test_what_the_governor_takes(benchmark: BenchmarkFixture) -> None:
    """A request that costs nothing, admitted and counted."""
    governor = Governor()
    assert benchmark(governor.call, URLS[0], lambda: 7, 1e12) == 7
    assert governor.requests >= 1
