"""The writer's half of the core: the index, open segments, recovery."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import random
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from support.core import IDENTITY, NOW_MS, CoreCache, no_descriptor_leaks

from ioaccel._core._client import MISS, Keyring, View, read
from ioaccel._core._engine import (
    BLOCK_SIZE,
    DATA_START,
    MAX_SHARDS,
    SEGMENT_HEADER_SIZE,
    Index,
    Writer,
    block_footprint,
    block_key,
    client_page,
    kill_blocks,
    list_segment,
    probe_segment,
    recover_segment,
    verify_block,
    version_hash,
)

URL = "s3://bucket/object"
KEY = block_key(IDENTITY, URL)
LARGE = 1 << 20


@pytest.fixture
def cache() -> Iterator[CoreCache]:
    cache = CoreCache(segment_size=LARGE)
    yield cache
    cache.close()


def recover(cache: CoreCache, number: int, index: Index) -> tuple[int, int]:
    return recover_segment(index, cache.fd, cache.start_of(number), cache.segment_size, 0, number, 1)


def headers(cache: CoreCache, number: int = 0) -> list[tuple[object, ...]]:
    return list(list_segment(cache.fd, cache.start_of(number), cache.segment_size))


# ---- the index ----------------------------------------------------------------------------------


def test_an_index_of_what_cannot_be() -> None:
    with no_descriptor_leaks():
        for counts, sizes in (
            ([1, 2], [1]),
            ([1], [1, 2]),
            ([1] * (MAX_SHARDS + 1), [1] * (MAX_SHARDS + 1)),
        ):
            with pytest.raises(ValueError, match="each with its segment size"):
                Index(counts, sizes)
        for counts in ([], [0], [2**32 - 1, 1]):
            with pytest.raises(OSError, match="control page"):
                Index(counts, [1] * len(counts))
        with pytest.raises(OverflowError):
            Index([2**32], [1])
        with pytest.raises(OverflowError):
            Index([1], [-1])
        Index([1] * MAX_SHARDS, [1] * MAX_SHARDS)
        gc.collect()


def test_keys_and_locations_have_their_sizes(cache: CoreCache) -> None:
    (location,) = cache.put(URL, b"data")
    for key in (b"", KEY[:15], KEY + b"\0"):
        for call in (
            lambda key=key: cache.index.get(key),
            lambda key=key: cache.index.remove(key),
            lambda key=key: cache.index.touch(key, location, 0, True),
            lambda key=key: kill_blocks(cache.fd, cache.start_of(0), LARGE, [(key, 0)]),
            lambda key=key: verify_block(cache.fd, cache.start_of(0), LARGE, key, 0, 0, 0),
            lambda key=key: cache.writer.append(cache.index, key, URL, "v", 1, 0, 0, 0, b""),
        ):
            with pytest.raises(ValueError, match="a key has 16 bytes"):
                call()
    for wrong in (b"", location[:23], location + b"\0"):
        with pytest.raises(ValueError, match="a location has 24 bytes"):
            cache.index.remove(KEY, wrong)
        with pytest.raises(ValueError, match="a location has 24 bytes"):
            cache.index.touch(KEY, wrong, 0, True)
    with pytest.raises(ValueError, match="16 bytes"):
        block_key(b"", URL)
    with pytest.raises(TypeError):
        cache.index.get(None)  # type: ignore[arg-type]


def test_an_entry(cache: CoreCache) -> None:
    (location,) = cache.put(URL, b"data", "v1")
    at = location[:2] + b"\0\0" + location[4:]
    assert cache.index.get(KEY) == (at, 4, 4, version_hash("v1"), NOW_MS, True)
    assert cache.index.usage() == cache.index.shard_usage(0) == cache.index.segment_usage(0, 0) == (1, 4)
    assert cache.index.segment_usage(0, 1) == cache.index.shard_usage(1) == (0, 0)
    assert cache.index.touch(KEY, location, NOW_MS + 1, False)
    assert cache.index.get(KEY) == (at, 4, 4, version_hash("v1"), NOW_MS + 1, True)
    elsewhere = bytes([*location[:12], location[12] ^ 8, *location[13:]])
    assert not cache.index.touch(KEY, elsewhere, NOW_MS + 2, False)
    assert not cache.index.remove(KEY, elsewhere)
    assert cache.index.remove(KEY, location)
    assert cache.index.get(KEY) is None
    assert not cache.index.remove(KEY)
    assert cache.index.usage() == (0, 0)


def test_readers_cannot_write_the_shared_pages(cache: CoreCache) -> None:
    for fd in (cache.index.control_fd(), cache.index.index_fd()):
        assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        assert not os.get_inheritable(fd)
        os.close(fd)


# ---- the owner ----------------------------------------------------------------------------------


def make_and_end_in_a_child(end: str) -> bool:
    """Whether a reader takes the page for alive after the child that owned it has ended."""
    index = Index([1], [LARGE])
    page = os.memfd_create("page")
    os.ftruncate(page, 4097)
    os.pwrite(page, client_page(1), 0)
    view = View(index.control_fd(), index.index_fd(), page, [])
    assert not view.alive
    done_r, done_w = os.pipe()
    child = os.fork()
    if child == 0:
        index.hold()
        assert view.alive
        if end == "index is let go":
            del index
            gc.collect()
        os.write(done_w, b"+" if view.alive else b"-")
        os._exit(0)
    assert os.read(done_r, 1) == (b"-" if end == "index is let go" else b"+")
    os.waitpid(child, 0)
    os.close(done_r)
    os.close(done_w)
    return view.alive


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("end", ["process ends", "index is let go"])
def test_the_page_of_an_owner_that_has_gone_is_not_believed(end: str) -> None:
    assert not make_and_end_in_a_child(end)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_letting_go_in_a_forked_child_is_not_the_owners_end(cache: CoreCache) -> None:
    cache.put(URL, b"data")
    view = cache.view()
    child = os.fork()
    if child == 0:
        del cache.index
        gc.collect()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert view.alive
    assert read(view, cache.ring, URL, 0, None, 0) == b"data"


def test_a_page_has_one_owner(cache: CoreCache) -> None:
    with pytest.raises(OSError, match="owner thread") as caught:
        cache.index.hold()
    assert caught.value.errno == errno.EALREADY
    cache.index.release()
    with pytest.raises(OSError, match="owner thread"):
        cache.index.hold()


# ---- writing ------------------------------------------------------------------------------------


def test_what_was_appended_is_listed(cache: CoreCache) -> None:
    urls = [f"s3://bucket/{n}/\udcff.bin" for n in range(3)]
    for n, url in enumerate(urls):
        key = block_key(IDENTITY, url, n)
        assert cache.writer.append(
            cache.index, key, url, f"vä{n}", 10 * n, n << 22, NOW_MS + n, 100 + n, b"x" * n
        )
    listed = headers(cache)
    assert [h[0] for h in listed] == [block_key(IDENTITY, url, n) for n, url in enumerate(urls)]
    assert [h[1] for h in listed] == urls
    assert [h[2] for h in listed] == ["vä0", "vä1", "vä2"]
    assert [h[3] for h in listed] == [0, 10, 20]
    assert [h[4] for h in listed] == [0, 1 << 22, 2 << 22]
    assert [h[6:] for h in listed] == [(n, NOW_MS + n, 100 + n, False) for n in range(3)]
    for n, url in enumerate(urls):
        offset, length = listed[n][5], listed[n][6]
        key = block_key(IDENTITY, url, n)
        where = (cache.fd, cache.start_of(0), LARGE)
        assert verify_block(*where, key, version_hash(f"vä{n}"), offset, length)  # type: ignore[arg-type]
        assert n == 0 or not verify_block(*where, key, version_hash("v"), offset, length)  # type: ignore[arg-type]
    assert cache.writer.prefix() == "s3://bucket/"
    assert probe_segment(cache.fd, cache.start_of(0), LARGE) == (1, "s3://bucket/")
    assert probe_segment(cache.fd, cache.start_of(1), LARGE) is None


def test_many_headers_are_listed(cache: CoreCache) -> None:
    """More than one window of the walk; and names as long as they may be."""
    for n in range(2000):
        name = "s3://bucket/" + "x" * (n % 150) + str(n)
        cache.put(name, b"", "v" * (n % 50))
    assert [h[8] for h in headers(cache)] == list(range(2, 2002))
    cache.start(1)
    longest = "s3://" + "u" * 4091
    cache.put(longest, b"data", "v" * 512)
    assert [h[1:3] for h in headers(cache, 1)] == [(longest, "v" * 512)]
    index = Index([3], [LARGE])
    assert recover(cache, 0, index) == (2000, 2001)
    assert index.usage() == (2000, 0)


def test_what_is_too_long_to_cache_is_a_mistake_and_no_bad_disk(cache: CoreCache) -> None:
    def append(url: str, version: str, data: bytes) -> bytes | None:
        return cache.writer.append(cache.index, KEY, url, version, 1, 0, 0, 0, data)

    for url, version in (("u" * 4097, "v"), ("ä" * 2049, "v"), ("u", "v" * 513), ("u" * 70_000, "v")):
        with pytest.raises(ValueError, match="too long to cache"):
            append(url, version, b"")
    with pytest.raises(ValueError, match="at most 4194304 bytes"):
        append("u", "v", bytes(BLOCK_SIZE + 1))
    assert cache.index.usage() == (0, 0)
    assert headers(cache) == []
    assert append("u" * 4096, "v" * 512, b"x")


@pytest.mark.parametrize(
    "data", [b"0123", bytearray(b"0123"), memoryview(b"x0123")[1:], np.arange(4, dtype="b")]
)
def test_data_is_any_contiguous_buffer(cache: CoreCache, data: bytes) -> None:
    assert cache.writer.append(cache.index, KEY, URL, "v", 4, 0, NOW_MS, 0, data)
    assert read(cache.view(), cache.ring, URL, 0, None, 0) == bytes(data)
    if isinstance(data, bytearray):
        data.append(0)  # nobody holds it


def test_data_that_is_no_buffer(cache: CoreCache) -> None:
    with pytest.raises(TypeError):
        cache.writer.append(cache.index, KEY, URL, "v", 4, 0, NOW_MS, 0, "text")  # type: ignore[arg-type]
    with pytest.raises((BufferError, ValueError), match="contiguous"):
        cache.writer.append(cache.index, KEY, URL, "v", 4, 0, NOW_MS, 0, np.arange(10)[::2])
    too_long = bytearray(BLOCK_SIZE + 1)
    with pytest.raises(ValueError, match="at most"):
        cache.writer.append(cache.index, KEY, URL, "v", 4, 0, NOW_MS, 0, too_long)
    too_long.append(0)  # nobody holds it


def test_a_full_segment_and_its_room(cache: CoreCache) -> None:
    room = cache.writer.room
    assert room == LARGE - SEGMENT_HEADER_SIZE
    length = room - block_footprint(len(URL), 1, 0) - 100
    assert cache.writer.append(cache.index, KEY, URL, "v", 1, 0, 0, 0, bytes(length))
    assert cache.writer.room == room - block_footprint(len(URL), 1, length)
    assert (
        cache.writer.append(cache.index, block_key(IDENTITY, "s3://b/x"), URL, "v", 1, 0, 0, 0, b"") is None
    )
    assert cache.index.usage() == (1, length)
    assert block_footprint(5000, 0, 0) == 2**64 - 1


def test_a_block_in_transit_is_not_in_the_index(cache: CoreCache) -> None:
    location = cache.writer.append(None, KEY, URL, "v", 4, 0, 0, 0, b"data")
    assert location is not None
    assert cache.index.get(KEY) is None
    assert cache.index.usage() == (0, 0)


def test_errors_are_those_of_the_disk() -> None:
    index = Index([1], [LARGE])
    read_only = os.open("/proc/self/exe", os.O_RDONLY)
    with pytest.raises(OSError, match="segment header") as caught:
        Writer(read_only, DATA_START, LARGE, 1, 0, 0, 1)
    assert caught.value.errno == errno.EBADF
    os.close(read_only)
    full = os.open("/dev/full", os.O_RDWR)
    with pytest.raises(OSError, match="segment header"):
        Writer(full, DATA_START, LARGE, 1, 0, 0, 1)
    os.close(full)
    fd = os.memfd_create("shard")
    os.ftruncate(fd, DATA_START + LARGE)
    with pytest.raises(FileNotFoundError):
        Writer(fd, DATA_START, LARGE, None, 0, 0, 1)
    with pytest.raises(OSError, match="Invalid argument"):
        Writer(fd, DATA_START, SEGMENT_HEADER_SIZE - 1, 1, 0, 0, 1)
    writer = Writer(fd, DATA_START, LARGE, 1, 0, 0, 1)
    os.close(fd)
    with pytest.raises(OSError, match=URL):
        writer.append(index, KEY, URL, "v", 4, 0, 0, 0, b"data")
    for call in (
        lambda: list_segment(fd, DATA_START, LARGE),
        lambda: probe_segment(fd, DATA_START, LARGE),
        lambda: recover_segment(index, fd, DATA_START, LARGE, 0, 0, 1),
        lambda: kill_blocks(fd, DATA_START, LARGE, [(KEY, 0)]),
        lambda: verify_block(fd, DATA_START, LARGE, KEY, 0, 4096, 4),
    ):
        with pytest.raises(OSError, match="Bad file descriptor"):
            call()


def test_threads_append_to_one_segment(cache: CoreCache) -> None:
    objects = {f"s3://bucket/{n}": random.Random(n).randbytes(n * 10) for n in range(400)}
    urls = iter(list(objects))
    lock = threading.Lock()

    def append() -> None:
        while True:
            with lock:
                url = next(urls, None)
            if url is None:
                return
            data = objects[url]
            assert cache.writer.append(
                cache.index, block_key(IDENTITY, url), url, "v", len(data), 0, NOW_MS, 1, data
            )

    threads = [threading.Thread(target=append) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.index.usage() == (400, sum(map(len, objects.values())))
    view = cache.view()
    assert all(read(view, cache.ring, url, 0, None, 0) == data for url, data in objects.items())
    assert {h[1] for h in headers(cache)} == set(objects)


# ---- recovery -----------------------------------------------------------------------------------


def test_recovered_blocks_are_no_hits_until_they_are_verified(cache: CoreCache) -> None:
    cache.put(URL, b"data")
    index = Index([3], [LARGE])
    index.hold()
    assert recover(cache, 0, index) == (1, 2)
    entry = index.get(KEY)
    assert entry is not None
    location, length, size, version, checked_ms, verified = entry
    assert (length, size, version, checked_ms, verified) == (4, 4, version_hash("v1"), NOW_MS, False)
    view = View(index.control_fd(), index.index_fd(), os.dup(cache.page_fd), [os.dup(cache.fd)])
    ring = Keyring()
    ring.add("s3", IDENTITY)
    assert read(view, ring, URL, 0, None, 0) == MISS
    offset = int.from_bytes(location[12:16], "little")
    assert verify_block(cache.fd, cache.start_of(0), LARGE, KEY, version, offset, length)
    assert index.touch(KEY, location, 0, True)
    assert read(view, ring, URL, 0, None, 0) == b"data"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_copies_the_one_checked_last_is_recovered(cache: CoreCache, order: tuple[int, int]) -> None:
    """Segments are gone on with, so the order of their sequence is not that of the blocks in them; and
    shards are recovered at the same time."""
    cache.put(URL, b"old", "v1", NOW_MS)
    cache.start(1)
    cache.put(URL, b"newest", "v2", NOW_MS + 2)
    cache.put(URL, b"newer", "v3", NOW_MS + 1)
    index = Index([3], [LARGE])
    for number in order:
        recover(cache, number, index)
    entry = index.get(KEY)
    assert entry is not None
    assert entry[1:5] == (6, 6, version_hash("v2"), NOW_MS + 2)
    assert index.usage() == (1, 6)


def test_a_killed_block_stays_away(cache: CoreCache) -> None:
    cache.put(URL, b"first")
    cache.put(URL, b"second")
    cache.put("s3://bucket/other", b"other")
    where = (cache.fd, cache.start_of(0), LARGE)
    victims = [(KEY, headers(cache)[1][5])]
    assert kill_blocks(*where, victims) == 2
    assert kill_blocks(*where, victims) == kill_blocks(*where, []) == 0
    assert [h[9] for h in headers(cache)] == [True, True, False]
    index = Index([3], [LARGE])
    assert recover(cache, 0, index) == (1, 4)  # the sequence counts dead ones, too
    assert index.get(KEY) is None
    assert index.usage() == (1, 5)


def test_a_segment_is_gone_on_with(cache: CoreCache) -> None:
    cache.put(URL, b"first")
    room = cache.writer.room
    writer = Writer(cache.fd, cache.start_of(0), LARGE, None, 0, 0, 1)
    assert writer.room == room
    assert writer.prefix() == URL
    other = block_key(IDENTITY, "s3://bucket/other")
    assert writer.append(cache.index, other, "s3://bucket/other", "v", 5, 0, 0, 0, b"other")
    assert writer.prefix() == "s3://bucket/o"
    assert [h[1] for h in headers(cache)] == [URL, "s3://bucket/other"]


def test_each_of_many_appends_has_its_own_outcome() -> None:
    cache = CoreCache()

    def block(n: int, length: int, url: str = "") -> tuple[bytes, str, str, int, int, int, int, bytes]:
        url = url or f"s3://b/{n}"
        return block_key(IDENTITY, url), url, "v", length, 0, NOW_MS, n, bytes([n]) * length

    room = cache.segment_size // BLOCK_SIZE - 1
    many = [block(n, BLOCK_SIZE) for n in range(room + 3)]
    many[1] = block(1, 10, "u" * 5000)
    outcomes = cache.writer.append_all(cache.index, many)
    assert isinstance(outcomes[1], ValueError)
    assert all(isinstance(outcome, bytes) for outcome in outcomes[2:room])
    assert outcomes[-1] is None, "the segment is full"
    assert cache.writer.append_all(cache.index, []) == []
    for n, outcome in enumerate(outcomes):
        entry = cache.index.get(many[n][0])
        assert (entry is not None) == isinstance(outcome, bytes)
        if entry is not None and isinstance(outcome, bytes):
            assert entry[0][4:] == outcome[4:]
            offset = cache.start_of(cache.number) + int.from_bytes(outcome[12:16], "little")
            assert os.pread(cache.fd, BLOCK_SIZE, offset) == many[n][-1]
    cache.close()


def test_many_appends_hold_no_data_afterwards(cache: CoreCache) -> None:
    data = [bytearray(10), bytearray(BLOCK_SIZE + 1), bytearray(10)]
    blocks = [(KEY, URL, "v", 1, 0, 0, n, each) for n, each in enumerate(data)]
    outcomes = cache.writer.append_all(cache.index, blocks)
    assert [type(outcome) for outcome in outcomes] == [bytes, ValueError, bytes]
    for each in data:
        each.append(0)
