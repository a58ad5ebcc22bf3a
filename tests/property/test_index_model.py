"""The index, the segments and their recovery, against a dictionary and some lists.

The model knows what was done, and nothing of slots, generations or bytes: which blocks are in the index,
and which headers stand in each segment. After every step the core must say the same.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace

import hypothesis.strategies as st
from hypothesis import Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.core import IDENTITY

from ioaccel._core._client import MISS, Keyring, View, read
from ioaccel._core._engine import (
    DATA_START,
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

SEGMENTS = (3, 2)  # of each shard
SIZES = (16 << 10, 12 << 10)  # so small that they fill up
HEADER = 4096

SHARDS = st.sampled_from([0, 1])
NUMBERS = st.integers(0, 2)
URLS = st.sampled_from(
    ["s3://b/a", "s3://b/train/1", "s3://b/train/22", "s3://c/ä", "s3://b/a/very/long/name" * 9]
)
VERSIONS = st.sampled_from(["v1", "v2", ""])
LENGTHS = st.sampled_from([0, 1, 7, 100, 1000, 3000])
TIMES = st.integers(0, 5)


@dataclass
class Stored:
    """A block as its header tells it, and where it is."""

    shard: int
    segment: int
    offset: int
    url: str
    version: str
    data: bytes
    checked_ms: int
    sequence: int
    dead: bool = False
    verified: bool = True


Place = tuple[int, int]


def common_prefix(urls: list[str]) -> str:
    first = min(urls, default="")
    last = max(urls, default="")
    return first[: next((i for i, c in enumerate(first) if last[i : i + 1] != c), len(first))]


class CoreAgainstModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.files = []
        for count, size in zip(SEGMENTS, SIZES, strict=True):
            file = tempfile.TemporaryFile()  # noqa: SIM115 - closed in teardown
            file.truncate(DATA_START + count * size)
            self.files.append(file)
        self.headers: dict[Place, list[Stored]] = {}  # of every segment that was ever started
        self.started: dict[Place, int] = {}  # its sequence
        self.live: dict[str, Stored] = {}
        self.sequence = 0
        self.open_index()

    def open_index(self) -> None:
        self.index = Index(SEGMENTS, SIZES)
        self.index.hold()
        page = os.memfd_create("page")
        os.ftruncate(page, 4096 + sum(SEGMENTS))
        os.pwrite(page, client_page(sum(SEGMENTS)), 0)
        self.view = View(
            self.index.control_fd(), self.index.index_fd(), page, [os.dup(f.fileno()) for f in self.files]
        )
        self.ring = Keyring()
        self.ring.add("s3", IDENTITY)
        self.generation = {(s, n): 1 for s, count in enumerate(SEGMENTS) for n in range(count)}
        self.writers: dict[Place, Writer] = {}

    def teardown(self) -> None:
        for file in self.files:
            file.close()

    def where(self, place: Place) -> tuple[int, int, int]:
        shard, number = place
        return self.files[shard].fileno(), DATA_START + number * SIZES[shard], SIZES[shard]

    # ---- what an engine does --------------------------------------------------------------------

    @initialize()
    def start_some(self) -> None:
        for shard, number in ((0, 0), (0, 1), (1, 0)):
            self.start(shard, number)

    @rule(shard=SHARDS, number=NUMBERS)
    def start(self, shard: int, number: int) -> None:
        place = shard, number % SEGMENTS[shard]
        self.forget(shard, number)
        self.sequence += 1
        self.writers[place] = Writer(*self.where(place), self.sequence, *place, self.generation[place])
        self.started[place] = self.sequence
        self.headers[place] = []

    @rule(shard=SHARDS, number=NUMBERS)
    def resume(self, shard: int, number: int) -> None:
        place = shard, number % SEGMENTS[shard]
        if place not in self.started:
            assert probe_segment(*self.where(place)) is None
            return
        self.writers[place] = Writer(*self.where(place), None, *place, self.generation[place])

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), url=URLS, version=VERSIONS, length=LENGTHS, checked_ms=TIMES)
    def append(self, data: st.DataObject, url: str, version: str, length: int, checked_ms: int) -> None:
        place = data.draw(st.sampled_from(sorted(self.writers)))
        writer = self.writers[place]
        self.sequence += 1
        content = (f"{self.sequence}:".encode() * length)[:length]
        footprint = block_footprint(len(url.encode()), len(version), length)
        fits = footprint <= writer.room
        location = writer.append(
            self.index, block_key(IDENTITY, url), url, version, length, 0, checked_ms, self.sequence, content
        )
        assert (location is not None) == fits
        if location is not None:
            offset = int.from_bytes(location[12:16], "little")
            block = Stored(*place, offset, url, version, content, checked_ms, self.sequence)
            self.headers[place].append(block)
            self.live[url] = replace(block)

    @rule(url=URLS, here=st.booleans(), on_disk=st.booleans())
    def remove(self, url: str, here: bool, on_disk: bool) -> None:
        key = block_key(IDENTITY, url)
        block = self.live.pop(url, None)
        entry = self.index.get(key)
        assert self.index.remove(key, entry[0] if entry and here else None) == (block is not None)
        if block is not None and on_disk:
            place = block.shard, block.segment
            marked = 0
            for header in self.headers[place]:  # data grows downwards: older copies stand above
                if header.url == url and header.offset >= block.offset and not header.dead:
                    header.dead = True
                    marked += 1
            assert kill_blocks(*self.where(place), [(key, block.offset)]) == marked > 0

    @rule(url=URLS, checked_ms=TIMES, verified=st.booleans())
    def touch(self, url: str, checked_ms: int, verified: bool) -> None:
        key = block_key(IDENTITY, url)
        entry = self.index.get(key)
        location = entry[0] if entry else bytes(24)
        assert self.index.touch(key, location, checked_ms, verified) == (url in self.live)
        if url in self.live:
            block = self.live[url]
            block.checked_ms = max(block.checked_ms, checked_ms)
            block.verified = block.verified or verified

    @rule(shard=SHARDS, number=NUMBERS)
    def forget(self, shard: int, number: int) -> None:
        place = shard, number % SEGMENTS[shard]
        self.writers.pop(place, None)
        self.generation[place] += 1
        assert self.index.forget(*place) == self.generation[place]
        self.live = {u: b for u, b in self.live.items() if (b.shard, b.segment) != place}

    @rule(shards=st.permutations([0, 1]))
    def restart(self, shards: list[int]) -> None:
        """Another engine: what the headers tell, the copy checked last of each block."""
        self.open_index()
        self.live = {}
        for shard in shards:
            places = sorted((p for p in self.started if p[0] == shard), key=self.started.__getitem__)
            for place in places:
                headers = self.headers[place]
                found = recover_segment(self.index, *self.where(place), *place, 1)
                highest = max((h.sequence for h in headers), default=0)
                assert found == (sum(not h.dead for h in headers), highest)
                for header in headers:
                    known = self.live.get(header.url)
                    if not header.dead and (known is None or header.checked_ms >= known.checked_ms):
                        self.live[header.url] = replace(header, verified=False)

    @rule(url=URLS, position=st.floats(0, 0.999))
    def spoil_and_mend(self, url: str, position: float) -> None:
        block = self.live.get(url)
        if block is None or not block.data:
            return
        fd, start, size = self.where((block.shard, block.segment))
        at = start + block.offset + int(position * len(block.data))
        byte = os.pread(fd, 1, at)
        os.pwrite(fd, bytes([byte[0] ^ 1]), at)
        arguments = block_key(IDENTITY, url), version_hash(block.version), block.offset, len(block.data)
        assert not verify_block(fd, start, size, *arguments)
        os.pwrite(fd, byte, at)
        assert verify_block(fd, start, size, *arguments)

    # ---- what must hold -------------------------------------------------------------------------

    @invariant()
    def the_index_has_what_the_model_has(self) -> None:
        for url in (
            "s3://b/a",
            "s3://b/train/1",
            "s3://b/train/22",
            "s3://c/ä",
            "s3://b/a/very/long/name" * 9,
        ):
            entry = self.index.get(block_key(IDENTITY, url))
            data = read(self.view, self.ring, url, 0, None, 0)
            block = self.live.get(url)
            if block is None:
                assert entry is None
                assert data == MISS
                continue
            assert entry is not None
            location, length, size, version, checked_ms, verified = entry
            assert int.from_bytes(location[:2], "little") == block.shard
            assert int.from_bytes(location[4:8], "little") == block.segment
            assert int.from_bytes(location[12:16], "little") == block.offset
            assert (length, size) == (len(block.data), len(block.data))
            assert (version, checked_ms) == (version_hash(block.version), block.checked_ms)
            assert verified == block.verified
            assert data == (block.data if verified else MISS)
            where = self.where((block.shard, block.segment))
            assert verify_block(*where, block_key(IDENTITY, url), version, block.offset, length)

    @invariant()
    def the_accounts_are_right(self) -> None:
        def usage(blocks: list[Stored]) -> tuple[int, int]:
            return len(blocks), sum(len(b.data) for b in blocks)

        blocks = list(self.live.values())
        assert self.index.usage() == usage(blocks)
        for shard, count in enumerate(SEGMENTS):
            here = [b for b in blocks if b.shard == shard]
            assert self.index.shard_usage(shard) == usage(here)
            for number in range(count):
                assert self.index.segment_usage(shard, number) == usage(
                    [b for b in here if b.segment == number]
                )

    @invariant()
    def the_segments_hold_what_was_appended(self) -> None:
        for place, headers in self.headers.items():
            listed = list_segment(*self.where(place))
            assert [(h[1], h[2], h[3], h[5], h[7], h[8], h[9]) for h in listed] == [
                (h.url, h.version, len(h.data), h.offset, h.checked_ms, h.sequence, h.dead) for h in headers
            ]
            probed = probe_segment(*self.where(place))
            assert probed == (self.started[place], common_prefix([h.url for h in headers]))
            if place in self.writers:
                taken = sum(
                    block_footprint(len(h.url.encode()), len(h.version), len(h.data)) for h in headers
                )
                assert self.writers[place].room == SIZES[place[0]] - HEADER - taken


def test_the_core_agrees_with_the_model() -> None:
    # A failure is shown as it was found: to make it shorter takes minutes, and its steps can be read.
    phases = (Phase.reuse, Phase.generate)
    run_state_machine_as_test(
        CoreAgainstModel,
        settings=settings(max_examples=100, stateful_step_count=50, deadline=None, phases=phases),
    )
