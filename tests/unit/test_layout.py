"""Every struct that outlives a call, read byte by byte by a decoder that knows only ia_layout.h.

What stands here is the format: a test that fails means a new IA_FORMAT, and old caches begin anew.
"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import pytest
from support.core import IDENTITY, NOW_MS, CoreCache

from ioaccel._core import _client, _engine
from ioaccel._core._hash import siphash128
from ioaccel.engine.shard import open_shard

KIB = 1 << 10
SPAN = 64 * KIB

SUPERBLOCK = struct.Struct("<8s I I 16s Q Q Q Q")
SEGMENT_HEADER = struct.Struct("<8s I I Q I I 4064s")
BLOCK_HEADER = struct.Struct("<4s H H I I QQ Q Q Q Q Q I I H H I")
LOCATION = struct.Struct("<H H I I I I I")
CONTROL = struct.Struct("<8s I I I I Q 64Q 128I 64s")
INDEX_HEADER = struct.Struct("<8s I I Q Q")
SLOT = struct.Struct("<I B B 2x I I I I QQ Q Q Q")
CLIENT_PAGE = struct.Struct("<8s I I 8Q")


class Block(NamedTuple):
    """A block header, the strings behind it, and where it ends."""

    magic: bytes
    format: int
    dead: int
    header_len: int
    crc: int
    key_low: int
    key_high: int
    segment_sequence: int
    block_sequence: int
    object_size: int
    object_offset: int
    checked_ms: int
    data_offset: int
    length: int
    url_len: int
    version_len: int
    reserved: int
    url: bytes
    version: bytes


def read_block(segment: bytes, at: int) -> Block:
    fields = BLOCK_HEADER.unpack_from(segment, at)
    header_len, url_len, version_len = fields[3], fields[14], fields[15]
    assert header_len == (88 + url_len + version_len + 7) // 8 * 8
    names = segment[at + 88 : at + header_len]
    assert not any(names[url_len + version_len :])
    blank = bytearray(segment[at : at + header_len])
    blank[6:8] = bytes(2)  # dead
    blank[12:16] = bytes(4)  # crc
    assert fields[4] == google_crc32c.value(bytes(blank))
    return Block(*fields, names[:url_len], names[url_len : url_len + version_len])


def version_hash(version: bytes) -> int:
    return int.from_bytes(siphash128(bytes(16), version)[:8], "little")


def crc_seed(key: bytes, version: bytes) -> int:
    low, high = struct.unpack("<QQ", key)
    mix = low ^ high ^ version_hash(version)
    return (mix ^ mix >> 32) & 0xFFFFFFFF


def stored(key: bytes, version: bytes, data: bytes) -> bytes:
    """What stands on disk for the data of a block."""
    seed = crc_seed(key, version)
    spans = [data[i : i + SPAN] for i in range(0, len(data), SPAN)]
    crcs = b"".join(struct.pack("<I", google_crc32c.extend(seed, span)) for span in spans)
    return data + bytes(-len(data) % 4) + crcs


def as_words(key: bytes) -> tuple[int, int]:
    low, high = struct.unpack("<QQ", key)
    return low, high


# ---- disk ---------------------------------------------------------------------------------------


def test_superblock(tmp_path: Path) -> None:
    before = int(time.time() * 1000)
    shard = open_shard(0, tmp_path, 1_000_000_000, ["here"])
    shard.write_superblock()
    after = int(time.time() * 1000)
    data = (tmp_path / "shard.data").read_bytes()[:64]
    assert SUPERBLOCK.size == len(data) == 64
    magic, version, crc, uuid, segment_size, capacity, created_ms, reserved = SUPERBLOCK.unpack(data)
    assert magic == b"IOASHRD1"
    assert version == _engine.FORMAT == 1
    assert crc == google_crc32c.value(data[:12] + bytes(4) + data[16:])
    assert len(set(uuid)) > 4
    assert segment_size == shard.segment_size
    assert segment_size % 4096 == 0
    assert capacity == 1_000_000_000
    assert before <= created_ms <= after
    assert reserved == 0
    shard.close()


def test_segment_header() -> None:
    cache = CoreCache()
    cache.start(1)
    cache.put("s3://bucket/train/cat/1", b"data")
    cache.put("s3://bucket/train/cow/1", b"data")
    data = os.pread(cache.fd, 4096, 65536 + cache.segment_size)
    assert SEGMENT_HEADER.size == len(data) == _engine.SEGMENT_HEADER_SIZE == 4096
    magic, version, crc, sequence, prefix_len, reserved, prefix = SEGMENT_HEADER.unpack(data)
    assert magic == b"IIOASEG1"
    assert version == 1
    assert crc == google_crc32c.value(data[:12] + bytes(4) + data[16:])
    assert sequence == 2  # segment 0 was started first
    assert prefix_len == len("s3://bucket/train/c")
    assert reserved == 0
    assert prefix == b"s3://bucket/train/c".ljust(4064, b"\0")
    cache.close()


# Around the padding to 4, the span of a CRC and the size of a block.
@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 8, SPAN - 1, SPAN, SPAN + 1, 200_001, 4 << 20])
def test_block(length: int) -> None:
    cache = CoreCache(segment_size=8 << 20)
    url, version, data = "s3://bucket/ä b.jpg", '"etag\u20ac"', os.urandom(length)
    (location,) = cache.put(url, data, version)
    segment = os.pread(cache.fd, cache.segment_size, 65536)
    block = read_block(segment, 4096)
    assert BLOCK_HEADER.size == 88
    assert block.magic == b"IBLK"
    assert block.format == 1
    assert block.dead == 0
    key = siphash128(IDENTITY, url.encode())
    assert (block.key_low, block.key_high) == as_words(key)
    assert block.segment_sequence == 1
    assert block.block_sequence == 2
    assert block.object_size == block.length == length
    assert block.object_offset == 0
    assert block.checked_ms == NOW_MS
    assert block.reserved == 0
    assert block.url == url.encode()
    assert block.version == version.encode()

    # Data from the back, in front of what is there, at a multiple of 8.
    expected = stored(key, version.encode(), data)
    assert block.data_offset == cache.segment_size - (len(expected) + 7) // 8 * 8
    assert segment[block.data_offset : block.data_offset + len(expected)] == expected
    # Behind the last header stands an end, whatever was there before.
    assert not any(segment[4096 + block.header_len : block.data_offset])
    assert LOCATION.unpack(location)[4:6] == (block.data_offset, length)
    cache.close()


def test_a_run_of_headers_has_no_gaps() -> None:
    cache = CoreCache()
    for n in range(50):
        cache.put(f"s3://bucket/{'x' * n}", bytes(n), f"version-{n * 3}")
    segment = os.pread(cache.fd, cache.segment_size, 65536)
    at, lowest = 4096, cache.segment_size
    for n in range(50):
        block = read_block(segment, at)
        assert block.url == f"s3://bucket/{'x' * n}".encode()
        assert block.data_offset < lowest or n == 0
        at, lowest = at + block.header_len, block.data_offset
    assert segment[at : at + 8] == bytes(8)
    cache.close()


def test_blocks_of_one_object_have_neighbouring_keys() -> None:
    cache = CoreCache()
    data = os.urandom((8 << 20) + 5)
    cache.put("s3://bucket/large", data)
    segment = os.pread(cache.fd, cache.segment_size, 65536)
    low, high = as_words(siphash128(IDENTITY, b"s3://bucket/large"))
    at = 4096
    for n in range(3):
        block = read_block(segment, at)
        assert (block.key_low, block.key_high) == (low, (high + n) % 2**64)
        assert block.object_offset == n << 22
        assert block.object_size == len(data)
        at += block.header_len
    cache.close()


def test_killing_changes_two_bytes() -> None:
    cache = CoreCache()
    cache.put("s3://bucket/a", b"data")
    before = os.pread(cache.fd, cache.segment_size, 65536)
    victim = _engine.block_key(IDENTITY, "s3://bucket/a"), read_block(before, 4096).data_offset
    assert _engine.kill_blocks(cache.fd, 65536, cache.segment_size, [victim]) == 1
    after = os.pread(cache.fd, cache.segment_size, 65536)
    assert [i for i in range(len(before)) if before[i] != after[i]] == [4096 + 6]
    assert after[4096 + 6 : 4096 + 8] == b"\1\0"
    assert read_block(after, 4096).dead == 1
    cache.close()


def test_the_core_reads_what_python_wrote() -> None:
    """The other way round: a segment by the letter of the layout."""
    size, url, version, data = 1 << 20, b"s3://bucket/by/hand", b"v7", os.urandom(100_000)
    key = siphash128(IDENTITY, url)
    body = stored(key, version, data)
    data_offset = size - 112_000
    segment = bytearray(size)
    header = SEGMENT_HEADER.pack(b"IIOASEG1", 1, 0, 42, 12, 0, b"s3://bucket/")
    segment[:4096] = header
    struct.pack_into("<I", segment, 12, google_crc32c.value(header))
    names = url + version
    fields = (*as_words(key), 42, 43, len(data), 0, NOW_MS, data_offset, len(data), len(url), len(version), 0)
    header_len = (88 + len(names) + 7) // 8 * 8
    block = BLOCK_HEADER.pack(b"IBLK", 1, 0, header_len, 0, *fields) + names
    block = block.ljust(header_len, b"\0")
    segment[4096 : 4096 + header_len] = block
    struct.pack_into("<I", segment, 4096 + 12, google_crc32c.value(block))
    segment[data_offset : data_offset + len(body)] = body

    fd = os.memfd_create("by-hand")
    os.pwrite(fd, bytes(segment), 4096)
    assert _engine.probe_segment(fd, 4096, size) == (42, "s3://bucket/")
    assert _engine.list_segment(fd, 4096, size) == [
        (key, url.decode(), "v7", len(data), 0, data_offset, len(data), NOW_MS, 43, False)
    ]
    assert _engine.verify_block(fd, 4096, size, key, version_hash(version), data_offset, len(data))
    assert _engine.version_hash("v7") == version_hash(version) == _client.version_hash("v7")
    os.close(fd)


# ---- shared memory ------------------------------------------------------------------------------


def test_control_page() -> None:
    index = _engine.Index([2, 0, 3], [1 << 20, 2 << 20, 3 << 32])
    fd = index.control_fd()
    data = os.pread(fd, 1 << 20, 0)
    assert len(data) == 4096 + 4 * 5
    assert CONTROL.size == 32 + 16 * 64 + 64
    fields = CONTROL.unpack_from(data)
    magic, version, shards, owner, total, epoch = fields[:6]
    assert magic == b"IIOACTL1"
    assert version == 1
    assert shards == 3
    assert owner == 0
    assert total == 5
    assert epoch == 1
    assert fields[6 : 6 + 64] == (1 << 20, 2 << 20, 3 << 32, *[0] * 61)
    assert fields[70 : 70 + 128] == (0, 2, 2, 0, 2, 3, *[0] * 122)
    assert struct.unpack_from("<5I", data, 4096) == (1, 1, 1, 1, 1)

    assert index.forget(2, 1) == 2
    assert struct.unpack("<5I", os.pread(fd, 20, 4096)) == (1, 1, 1, 2, 1)
    index.hold()
    (owner,) = struct.unpack("<I", os.pread(fd, 4, 16))
    assert Path(f"/proc/self/task/{owner}").exists()  # the thread whose death the kernel notes here
    index.release()
    assert struct.unpack("<I", os.pread(fd, 4, 16)) == (0x40000000,)
    os.close(fd)


def test_index() -> None:
    cache = CoreCache()
    fd = cache.index.index_fd()
    size = os.fstat(fd).st_size
    magic, version, reserved, capacity, epoch = INDEX_HEADER.unpack(os.pread(fd, 32, 0))
    assert magic == b"IIAOIDX1"
    assert (version, reserved, epoch) == (1, 0, 1)
    assert capacity == 65536
    assert size == 4096 + 64 * capacity
    assert SLOT.size == 64

    def slot_of(key: bytes) -> tuple[int, ...]:
        low, high = as_words(key)
        home = low ^ (high * 0x9E3779B97F4A7C15) % 2**64
        home = (home ^ home >> 32) % capacity
        return SLOT.unpack(os.pread(fd, 64, 4096 + 64 * home))

    cache.start(2)
    url, data = "s3://bucket/object", os.urandom(1000)
    (location,) = cache.put(url, data, "v1")
    key = _engine.block_key(IDENTITY, url)
    assert key == siphash128(IDENTITY, url.encode())
    _, _, segment, generation, offset, length, _ = LOCATION.unpack(location)
    assert (segment, generation, length) == (2, 2, 1000)
    expected = (0, segment, generation, offset, length, *as_words(key), version_hash(b"v1"), 1000, NOW_MS)
    assert slot_of(key) == (2, 1, *expected)  # sequence, live
    assert cache.index.touch(key, location, NOW_MS + 5, False)
    assert slot_of(key) == (4, 1, *expected[:-1], NOW_MS + 5)
    assert cache.index.remove(key)
    assert slot_of(key)[:2] == (6, 3)  # dead
    other = _engine.Index([3], [cache.segment_size])
    _engine.recover_segment(other, cache.fd, cache.start_of(2), cache.segment_size, 0, 2, 1)
    os.close(fd)
    fd = other.index_fd()
    assert slot_of(key)[:4] == (2, 2, 0, 2)  # unverified
    os.close(fd)
    cache.close()


def test_client_page() -> None:
    page = _engine.client_page(3)
    assert len(page) == CLIENT_PAGE.size == 80
    assert CLIENT_PAGE.unpack(page) == (b"IIOACLI1", 1, 3, *[0] * 8)
    assert _engine.CLIENT_COUNTERS == ("hits", "hit_bytes", "misses", "miss_bytes", "direct_bytes", "disk_ns")

    cache = CoreCache()
    cache.start(1)
    cache.put("s3://bucket/a", bytes(1000))
    view = cache.view()
    for _ in range(2):
        assert _client.read(view, cache.ring, "s3://bucket/a", 10, 90, 0) == bytes(90)
    view.add_direct(12345)
    data = os.pread(cache.page_fd, 1 << 20, 0)
    assert len(data) == _engine.CLIENT_PAGE_SIZE + 3
    *counters, disk_ns, _, _ = CLIENT_PAGE.unpack_from(data)[3:]
    assert counters == [2, 180, 0, 0, 12345]
    assert disk_ns == round(view.disk_seconds * 1e9) >= 0  # not every file system answers RWF_NOWAIT
    assert data[4096:] == b"\0\1\0"
    cache.close()


def test_location() -> None:
    cache = CoreCache()
    cache.start(1)
    (location,) = cache.put("s3://bucket/a", bytes(1000))
    assert len(location) == LOCATION.size == 24
    shard, from_store, segment, generation, offset, length, reserved = LOCATION.unpack(location)
    assert (shard, from_store, segment, generation, length, reserved) == (0, 1, 1, 2, 1000, 0)
    assert offset == cache.segment_size - 1008
    entry = cache.index.get(_engine.block_key(IDENTITY, "s3://bucket/a"))
    assert entry is not None
    assert LOCATION.unpack(entry[0]) == (0, 0, 1, 2, offset, 1000, 0)  # not fetched for this reader
    cache.close()
