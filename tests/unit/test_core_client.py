"""The reader's half of the core: buffers, keys, views and batches."""

from __future__ import annotations

import gc
import os
import pickle
import random
import sys
import threading
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from support.core import IDENTITY, NOW_MS, CoreCache, no_descriptor_leaks
from support.processes import run_python

from ioaccel._core._client import (
    BLOCK_SIZE,
    HIT,
    MISS,
    PAST_END,
    Buffer,
    Keyring,
    Request,
    View,
    read,
    read_into,
    version_hash,
)
from ioaccel._core._engine import block_key

URL = "s3://bucket/object"
DATA = random.Random(1).randbytes(BLOCK_SIZE + 1000)


@pytest.fixture
def cache() -> Iterator[CoreCache]:
    cache = CoreCache()
    yield cache
    cache.close()


def never(url: Any) -> str:
    raise AssertionError(f"asked for the canonical name of {url!r}")


def copy(request: Request, threads: int = 1) -> bytes | None:
    offsets = np.empty(len(request) + 1, np.int64)
    buffer = np.frombuffer(memoryview(Buffer(request.offsets(offsets))), np.uint8)
    return bytes(buffer) if request.copy(buffer, threads) else None


# ---- buffers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, (2 << 20) - 1, 2 << 20, (2 << 20) + 1, 70 << 20])
def test_a_buffer_has_the_size_that_was_asked_for(size: int) -> None:
    buffer = Buffer(size)
    assert buffer.size == len(buffer) == size
    view = memoryview(buffer)
    assert (view.nbytes, view.readonly, view.format, view.ndim) == (size, False, "B", 1)
    if size:
        view[0], view[-1] = 1, 255
        assert (view[0], view[-1]) == (1, 255) if size > 1 else (255, 255)


def test_memory_is_used_again_when_the_last_view_is_gone() -> None:
    def address(view: memoryview) -> int:
        return int(np.frombuffer(view, np.uint8).__array_interface__["data"][0])

    gc.collect()
    first = memoryview(Buffer(5 << 20))
    where = address(first)
    part = first[100:200]
    second = memoryview(Buffer(5 << 20))
    assert address(second) != where
    del first
    third = memoryview(Buffer(5 << 20))
    assert address(third) != where  # a part of it is still looked at
    del part
    assert address(memoryview(Buffer(5 << 20))) == where
    # But not for what is much smaller: that would keep much memory for little.
    assert address(memoryview(Buffer(70_000))) != where


def test_no_more_memory_is_kept_than_a_few_batches() -> None:
    code = """
import resource
from ioaccel._core._client import Buffer
def fill(size):
    view = memoryview(Buffer(size))
    view[::4096] = bytes(len(view[::4096]))
    return view
def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * 4096
before = resident()
buffers = [fill(16 << 20) for _ in range(12)]
assert resident() - before > 180 << 20
del buffers
assert resident() - before < 70 << 20, resident() - before
large = fill(100 << 20)
del large
assert resident() - before < 70 << 20, resident() - before
"""
    run_python(code)


@pytest.mark.parametrize("size", [sys.maxsize - 1, sys.maxsize, sys.maxsize + 1, 2**64 - 1])
def test_more_memory_than_there_is(size: int) -> None:
    with pytest.raises(MemoryError, match="bytes for a batch"):
        Buffer(size)


@pytest.mark.parametrize("size", [-1, 2**64])
def test_a_size_has_64_bits(size: int) -> None:
    with pytest.raises(OverflowError):
        Buffer(size)


# ---- names --------------------------------------------------------------------------------------


def test_the_keyring_agrees_with_the_engine() -> None:
    ring = Keyring()
    assert ring.key(URL) is None
    ring.add("s3", IDENTITY)
    ring.add("s3x", bytes(16))
    assert ring.key(URL) == block_key(IDENTITY, URL)
    assert ring.key("s3x://bucket/ä€😀") == block_key(bytes(16), "s3x://bucket/ä€😀")
    for unknown in ("s3:/bucket/object", "s3", "", "s3://", "s://bucket", "S3://bucket/object", "gs://b/o"):
        assert ring.key(unknown) is None


def test_what_is_no_scheme_or_identity() -> None:
    ring = Keyring()
    for size in (0, 15, 17):
        with pytest.raises(ValueError, match="16 bytes"):
            ring.add("s3", bytes(size))
    with pytest.raises(TypeError):
        ring.add(None, IDENTITY)  # type: ignore[arg-type]
    for n in range(32):
        ring.add(f"scheme{n}", IDENTITY)
    with pytest.raises(ValueError, match="more than 32"):
        ring.add("another", IDENTITY)
    assert ring.key("scheme31://b/o") is not None
    with pytest.raises(UnicodeEncodeError):
        ring.key("scheme1://\udc80")


# ---- views --------------------------------------------------------------------------------------


def test_a_view_owns_its_descriptors(cache: CoreCache) -> None:
    with no_descriptor_leaks():
        view = cache.view()
        assert view.alive
        assert view.current
        view.remap(cache.index.index_fd())
        assert view.current
        del view


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_a_view_that_cannot_be_made_leaks_nothing(cache: CoreCache, wrong: int) -> None:
    with no_descriptor_leaks():
        make = [cache.index.control_fd, cache.index.index_fd, lambda: os.dup(cache.page_fd)]
        make[wrong] = lambda: os.memfd_create("of another kind")
        control, index, page = (each() for each in make)
        with pytest.raises(OSError, match="Protocol error"):
            View(control, index, page, [os.dup(cache.fd), -1, os.dup(cache.fd)])


def test_more_shards_than_there_can_be(cache: CoreCache) -> None:
    with no_descriptor_leaks():
        shards = [os.dup(cache.fd) for _ in range(65)]
        control, index, page = cache.index.control_fd(), cache.index.index_fd(), os.dup(cache.page_fd)
        with pytest.raises(ValueError, match="65 shards"):
            View(control, index, page, shards)


def test_a_remap_that_fails_changes_nothing(cache: CoreCache) -> None:
    cache.put(URL, b"data")
    view = cache.view()
    with no_descriptor_leaks(), pytest.raises(OSError, match="Protocol error"):
        view.remap(os.memfd_create("no index"))
    with pytest.raises(OSError, match="Bad file descriptor"):
        view.remap(-1)
    assert read(view, cache.ring, URL, 0, None, 0) == b"data"


def test_a_view_follows_a_growing_index(cache: CoreCache) -> None:
    """Old indexes are let go of; and there may be many of them in a long life."""
    view = cache.view()
    cache.put(URL, b"data")
    small = [block_key(IDENTITY, f"s3://bucket/{n}") for n in range(50_000)]
    for key in small:
        assert cache.writer.append(cache.index, key, "u", "v", 1, 0, NOW_MS, 1, b"x")
    assert view.alive
    assert not view.current
    assert read(view, cache.ring, URL, 0, None, 0) == b"data"
    for _ in range(100):
        view.remap(cache.index.index_fd())
        assert view.current
    assert read(view, cache.ring, URL, 0, None, 0) == b"data"
    maps = Path("/proc/self/maps").read_text().count("memfd:ioaccel-index")
    assert maps <= 2 + _maps_of_others()


def _maps_of_others() -> int:
    """Indexes that are mapped by what other tests have left to the garbage collector."""
    gc.collect()
    return sum(type(o) in (View, CoreCache) for o in gc.get_objects())


def test_no_view_is_pickled(cache: CoreCache) -> None:
    for thing in (
        cache.view(),
        cache.ring,
        Buffer(1),
        Request([], cache.ring, never),
        cache.index,
        cache.writer,
    ):
        with pytest.raises(TypeError):
            pickle.dumps(thing)


def test_without_an_owner_nothing_is_a_hit() -> None:
    cache = CoreCache(hold=False)
    cache.put(URL, b"data")
    view = cache.view()
    assert not view.alive
    assert not view.current
    assert read(view, cache.ring, URL, 0, None, 0) == MISS
    cache.index.hold()
    assert view.alive
    assert read(view, cache.ring, URL, 0, None, 0) == b"data"
    cache.index.release()
    assert not view.alive
    assert read(view, cache.ring, URL, 0, None, 0) == MISS
    cache.close()


# ---- single extents -----------------------------------------------------------------------------

EXTENTS = [
    (0, None),
    (0, 0),
    (0, 10),
    (1, 999),
    (BLOCK_SIZE - 1, 2),
    (BLOCK_SIZE, None),
    (5, BLOCK_SIZE + 995),
    (BLOCK_SIZE + 1000, None),
    (BLOCK_SIZE + 999, 1),
]


@pytest.mark.parametrize(("offset", "length"), EXTENTS)
def test_read(cache: CoreCache, offset: int, length: int | None) -> None:
    cache.put(URL, DATA)
    view = cache.view()
    expected = DATA[offset:] if length is None else DATA[offset : offset + length]
    assert read(view, cache.ring, URL, offset, length, 0) == expected
    target = bytearray(len(expected))
    assert read_into(view, cache.ring, URL, offset, target, 0) == HIT
    assert target == expected


def test_read_what_is_not_there(cache: CoreCache) -> None:
    cache.put(URL, DATA)
    view = cache.view()
    ring = cache.ring
    assert read(view, ring, "s3://bucket/other", 0, None, 0) == MISS
    assert read(view, ring, "gs://bucket/object", 0, None, 0) == MISS
    assert read(view, ring, URL, 0, None, NOW_MS) == DATA
    assert read(view, ring, URL, 0, None, NOW_MS + 1) == MISS
    assert read(view, ring, URL, 0, 10, 0, version_hash("v1")) == DATA[:10]
    assert read(view, ring, URL, 0, 10, 0, version_hash("v2")) == MISS
    assert read(view, ring, URL, len(DATA), 1, 0) == PAST_END
    assert read(view, ring, URL, len(DATA) + 1, None, 0) == PAST_END
    assert read(view, ring, URL, 0, 2**64 - 2, 0) == PAST_END
    assert read(view, ring, URL, 2**64 - 1, None, 0) == MISS
    target = bytearray(10)
    assert read_into(view, ring, "s3://bucket/other", 0, target, 0) == MISS
    assert read_into(view, ring, "gs://bucket/object", 0, target, 0) == MISS
    assert read_into(view, ring, URL, len(DATA) - 9, target, 0) == PAST_END
    assert read_into(view, ring, URL, 0, target, NOW_MS + 1) == MISS
    assert read_into(view, ring, URL, 0, target, 0, version_hash("v2")) == MISS
    assert target == bytes(10)
    target.append(0)  # nobody holds it
    cache.index.forget(0, 0)
    assert read(view, ring, URL, 0, None, 0) == MISS


def test_read_into_takes_what_can_be_written(cache: CoreCache) -> None:
    cache.put(URL, DATA)
    view = cache.view()
    array = np.zeros((4, 25), np.int32)
    assert read_into(view, cache.ring, URL, 7, array, 0) == HIT
    assert array.tobytes() == DATA[7:407]
    with pytest.raises(BufferError):
        read_into(view, cache.ring, URL, 0, b"read only", 0)
    with pytest.raises((BufferError, ValueError), match="contiguous"):
        read_into(view, cache.ring, URL, 0, np.zeros(10)[::2], 0)
    with pytest.raises(TypeError):
        read_into(view, cache.ring, URL, 0, "text", 0)  # type: ignore[arg-type]


# ---- batches ------------------------------------------------------------------------------------


def test_a_batch_of_all_kinds(cache: CoreCache) -> None:
    cache.put(URL, DATA)
    cache.put("s3://bucket/empty", b"")
    view = cache.view()

    class Name(str):
        """Not quite a string."""

        __slots__ = ()

    names = {PurePosixPath("/object"): URL, Name("x"): URL, "object": URL, "s4://": URL}
    extents: list[Any] = [
        URL,
        "object",
        PurePosixPath("/object"),
        Name("x"),
        (URL, 10, 20),
        [URL, 10, None],
        ("object", np.int64(5), np.uint8(200)),
        ("s3://bucket/empty", 0, None),
        ("s4://", 0, 0),
    ]
    expected = [
        *[(URL, 0, None)] * 4,
        (URL, 10, 20),
        (URL, 10, None),
        (URL, 5, 200),
        ("s3://bucket/empty", 0, None),
        (URL, 0, 0),
    ]
    request = Request(iter(extents), cache.ring, names.__getitem__)
    assert len(request) == len(extents)
    assert request.extents() == expected
    assert request.missing() == list(range(len(extents)))
    assert request.lookup(view, 0) == 0
    assert request.missing() == []
    assert [request.object_size(i) for i in range(len(request))] == [len(DATA)] * 7 + [0, len(DATA)]
    assert {request.version(i) for i in range(len(request))} == {version_hash("v1")}
    parts = [DATA] * 4 + [DATA[10:30], DATA[10:], DATA[5:205], b"", b""]
    offsets = np.empty(len(request) + 1, np.int64)
    assert request.offsets(offsets) == sum(map(len, parts))
    assert offsets.tolist() == np.cumsum([0, *map(len, parts)]).tolist()
    for threads in (0, 1, 2, 5, 100):
        assert copy(request, threads) == b"".join(parts)


def test_an_empty_batch(cache: CoreCache) -> None:
    request = Request((), cache.ring, never)
    assert len(request) == 0
    assert request.lookup(cache.view(), 0) == 0
    assert copy(request) == b""


@pytest.mark.parametrize(
    ("extent", "error", "message"),
    [
        ((URL, 0), ValueError, "an extent is a URL or"),
        ((URL, 0, 0, 0), ValueError, "an extent is a URL or"),
        ((), ValueError, "an extent is a URL or"),
        ((URL, -1, 0), ValueError, "negative"),
        ((URL, 0, -1), ValueError, "negative"),
        ((URL, 2**64, 0), OverflowError, None),
        ((URL, 0, 2**64), OverflowError, None),
        ((URL, 0.5, 1), TypeError, None),
        ((URL, None, 1), TypeError, None),
        ("s3://\udc80", UnicodeEncodeError, None),
        ("gs://bucket/object", ValueError, "unknown URL scheme"),
    ],
)
def test_what_is_no_extent(
    cache: CoreCache, extent: Any, error: type[Exception], message: str | None
) -> None:
    with pytest.raises(error, match=message):
        Request([URL, extent], cache.ring, lambda url: url)


def test_errors_of_the_caller_come_out(cache: CoreCache) -> None:
    with pytest.raises(AssertionError, match="canonical name of 7"):
        Request([URL, 7], cache.ring, never)
    with pytest.raises(TypeError):
        Request(7, cache.ring, never)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Request(["x"], cache.ring, lambda url: 7)  # type: ignore[arg-type, return-value]


def test_a_list_may_change_while_it_is_read(cache: CoreCache) -> None:
    extents: list[Any] = ["name"] * 100

    def canonical(url: Any) -> str:
        extents.clear()
        return URL

    assert Request(extents, cache.ring, canonical).extents() == [(URL, 0, None)] * 100


def test_missing_extents_are_resolved_from_an_answer(cache: CoreCache) -> None:
    cache.put("s3://bucket/there", b"there")
    locations = cache.put(URL, DATA)
    for n in range(2):
        cache.index.remove(block_key(IDENTITY, URL, n))  # as if it were in transit
    view = cache.view()
    request = Request([URL, "s3://bucket/there", (URL, 5, 10), (URL, BLOCK_SIZE, None)], cache.ring, never)
    assert request.lookup(view, 0) == 3
    assert request.missing() == [0, 2, 3]
    version = version_hash("v1")
    assert request.resolve(2, len(DATA), version, locations[0]) == HIT
    assert request.missing() == [0, 3]
    assert request.resolve(0, len(DATA), version, b"".join(locations)) == HIT
    assert request.resolve(3, len(DATA), version, locations[1]) == HIT
    assert copy(request, 2) == DATA + b"there" + DATA[5:15] + DATA[BLOCK_SIZE:]
    request.skip(1)
    request.skip(3)
    assert copy(request, 2) == DATA + DATA[5:15]
    # The answers were of blocks that the engine had fetched: three misses of blocks, four hits ...
    hits, hit_bytes, misses, miss_bytes = np.frombuffer(os.pread(cache.page_fd, 32, 16), np.uint64).tolist()
    assert (hits, hit_bytes) == (2, 10)
    assert misses == 4 + 3 + 1
    assert miss_bytes == 2 * len(DATA) + 2 * 10 + 2 * 1000 or miss_bytes > 0


def test_answers_that_cannot_be_right(cache: CoreCache) -> None:
    locations = cache.put(URL, DATA)
    view = cache.view()
    request = Request([("s3://bucket/other", 0, 10)], cache.ring, never)
    with pytest.raises(ValueError, match="not looked up"):
        request.resolve(0, 100, 0, locations[0])
    assert request.lookup(view, 0) == 1
    with pytest.raises(ValueError, match="not an answer"):
        request.resolve(0, len(DATA), 0, locations[0][:23])
    with pytest.raises(OSError, match="Protocol error"):
        request.resolve(0, len(DATA), 0, b"")
    with pytest.raises(OSError, match="Protocol error"):
        request.resolve(0, len(DATA), 0, b"\xff" * 24)
    with pytest.raises(OSError, match="Protocol error"):
        request.resolve(0, 10, 0, locations[0])
    with pytest.raises(IndexError):
        request.resolve(1, 10, 0, locations[0])
    assert request.resolve(0, 9, 0, locations[0]) == PAST_END
    assert request.missing() == [0]


def test_a_batch_that_is_not_resolved_is_not_copied(cache: CoreCache) -> None:
    cache.put(URL, DATA)
    view = cache.view()
    request = Request([URL, "s3://bucket/other"], cache.ring, never)
    offsets = np.empty(3, np.int64)
    with pytest.raises(ValueError, match="not looked up"):
        request.copy(bytearray(10), 1)
    request.lookup(view, 0)
    with pytest.raises(ValueError, match="extent 1 is not resolved"):
        request.offsets(offsets)
    with pytest.raises(ValueError, match="extent 1 is not resolved"):
        request.copy(bytearray(2 * len(DATA)), 1)
    request.skip(1)
    assert request.offsets(offsets) == len(DATA)


def test_memory_of_a_wrong_size_is_refused(cache: CoreCache) -> None:
    cache.put(URL, DATA)
    request = Request([URL, (URL, 0, 10)], cache.ring, never)
    request.lookup(cache.view(), 0)
    for size in (0, 1, 2, 4):
        with pytest.raises(ValueError, match="offsets"):
            request.offsets(np.empty(size, np.int64))
    target = bytearray(len(DATA) + 9)
    with pytest.raises(ValueError, match="do not hold the batch"):
        request.copy(target, 1)
    target.append(0)
    assert request.copy(target, 1)
    target.append(0)  # nobody holds it
    assert request.copy(target, 1)
    with pytest.raises(BufferError):
        request.copy(bytes(target), 1)
    for i in (2, 2**32 - 1):
        for call in (request.skip, request.object_size, request.version):
            with pytest.raises(IndexError):
                call(i)
    with pytest.raises(IndexError):
        request.lookup(cache.view(), 0, [2])


def test_a_segment_that_is_reused_makes_the_copy_fail(cache: CoreCache) -> None:
    cache.put(URL, DATA)
    view = cache.view()
    request = Request([URL, URL], cache.ring, never)
    request.lookup(view, 0)
    assert copy(request) == DATA + DATA
    cache.start(0)
    cache.put(URL, DATA[::-1])
    assert copy(request) is None
    assert request.unreadable == []  # no disk is at fault: look up again
    assert request.lookup(view, 0) == 0
    assert copy(request) == 2 * DATA[::-1]


def test_extents_that_a_disk_does_not_give(cache: CoreCache) -> None:
    for n in range(4):
        cache.put(f"s3://bucket/{n}", bytes([n]) * 1000)
    view = cache.view()
    request = Request([f"s3://bucket/{n}" for n in range(4)], cache.ring, never)
    request.lookup(view, 0)
    os.ftruncate(cache.fd, cache.start_of(1) - 1500)  # the first two were written at the end
    assert copy(request) is None
    assert request.unreadable == [0, 1]
    assert request.lookup(view, 0, request.unreadable) == 2
    assert request.missing() == [0, 1]
    for i in request.missing():
        request.skip(i)
    assert copy(request) == b"\2" * 1000 + b"\3" * 1000


def test_only_a_pinned_version_will_do(cache: CoreCache) -> None:
    cache.put(URL, DATA, "v1")
    cache.put("s3://bucket/other", b"data", "v2")
    view = cache.view()
    request = Request([URL, "s3://bucket/other"], cache.ring, never, version_hash("v1"))
    assert request.pinned == version_hash("v1")
    assert request.lookup(view, 0) == 1
    assert request.missing() == [1]
    request = Request([URL, "s3://bucket/other"], cache.ring, never)
    assert request.pinned == 0
    assert request.lookup(view, 0) == 0
    assert [request.version(i) for i in range(2)] == [version_hash("v1"), version_hash("v2")]
    cache.put(URL, DATA, "v3")
    assert request.lookup(view, 0) == 0  # anew: what was found before does not bind
    assert request.version(0) == version_hash("v3")
    request.unresolve()
    assert request.version(0) == 0


def test_many_extents(cache: CoreCache) -> None:
    """More than are looked up with the GIL held."""
    objects = [random.Random(n).randbytes(n % 500) for n in range(1000)]
    for n, data in enumerate(objects):
        cache.put(f"s3://bucket/{n}", data)
    order = random.Random(2).choices(range(1000), k=5000)
    request = Request([f"s3://bucket/{n}" for n in order], cache.ring, never)
    assert request.lookup(cache.view(), 0) == 0
    assert copy(request, 4) == b"".join(objects[n] for n in order)


def test_threads_read_while_another_follows_the_index(cache: CoreCache) -> None:
    objects = {f"s3://bucket/{n}": random.Random(n).randbytes(1000) for n in range(300)}
    for url, data in objects.items():
        cache.put(url, data)
    view = cache.view()
    stop = threading.Event()
    failures: list[BaseException] = []

    def read_all() -> None:
        try:
            urls = list(objects)
            random.shuffle(urls)
            expected = b"".join(objects[url] for url in urls)
            while not stop.is_set():
                request = Request(urls, cache.ring, never)
                assert request.lookup(view, 0) == 0
                assert copy(request, 2) == expected
                assert read(view, cache.ring, urls[0], 0, None, 0) == objects[urls[0]]
        except BaseException as error:  # noqa: BLE001 - told by the main thread
            failures.append(error)

    threads = [threading.Thread(target=read_all) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(300):
            view.remap(cache.index.index_fd())
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
