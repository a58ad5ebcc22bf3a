"""Whatever is done to a cache and to the store behind it, in whatever order, a read is right.

The model is a dictionary of what the store holds and has held. A read in a session may give a version
that the store held at any time since the session began, and never an older one than it gave before.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from pathlib import Path
from typing import ClassVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from support import kill_engine, payload, stop_engine

import ioaccel
from ioaccel import Cache, ObjectNotFoundError, RangeError
from ioaccel.testing.seaweed import SeaweedS3

BLOCK = 4 << 20
CAPACITY = 6_000_000  # one of the large objects and some small ones; the rest passes through

KEYS = st.sampled_from(["a", "b", "dir/c", "dir/d e%f"])
SIZES = st.sampled_from([0, 1, 1000, 70_000, BLOCK, BLOCK + 10])
SHARES = st.sampled_from([0.0, 0.1, 0.5, 0.9999, 1.0])  # of an object: where a range begins, how long it is


class StoreAndCache(RuleBasedStateMachine):
    s3: ClassVar[SeaweedS3]
    bucket: ClassVar[str]
    numbers: ClassVar[itertools.count[int]] = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="ioaccel-model-"))
        self.prefix = f"{next(self.numbers)}/"
        self.history: dict[str, list[bytes | None]] = {}  # every version; None: it did not exist
        self.seen: dict[str, int] = {}  # position in the history of the oldest version that may be read
        self.versions = itertools.count()

    @initialize()
    def connect(self) -> None:
        self.cache = self._connect()

    def _connect(self) -> Cache:
        for key, versions in self.history.items():
            self.seen[key] = len(versions) - 1
        return ioaccel.connect(self.directory, CAPACITY, self.s3.storage_options)

    def teardown(self) -> None:
        stop_engine(self.cache)
        self.cache.close()
        shutil.rmtree(self.directory)

    def url(self, key: str) -> str:
        return f"s3://{self.bucket}/{self.prefix}{key}"

    def candidates(self, key: str) -> list[tuple[int, bytes | None]]:
        versions = self.history.get(key, [None])
        first = self.seen.get(key, 0)
        return list(enumerate(versions))[first:]

    # ---- the store ----

    @rule(key=KEYS, size=SIZES)
    def put(self, key: str, size: int) -> None:
        data = payload(key, size, next(self.versions))
        self.s3.put(self.bucket, self.prefix + key, data)
        self.history.setdefault(key, [None]).append(data)

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        self.s3.delete(self.bucket, self.prefix + key)
        self.history.setdefault(key, [None]).append(None)

    # ---- reading ----

    @rule(key=KEYS)
    def read(self, key: str) -> None:
        self._check(key, 0, None)

    @rule(key=KEYS, start=SHARES, share=SHARES)
    def read_range(self, key: str, start: float, share: float) -> None:
        size = len(self.history.get(key, [None])[-1] or b"")
        offset = int(size * start)
        self._check(key, offset, int((size - offset) * share))

    def _check(self, key: str, offset: int, length: int | None) -> None:
        """Reads, and notes which version it was; there must be one."""
        got: bytes | type[Exception]
        try:
            got = self.cache.read(self.url(key), offset, length)
        except (ObjectNotFoundError, RangeError) as error:
            got = type(error)
        fitting = [n for n, data in self.candidates(key) if outcome(data, offset, length) == got]
        assert fitting, f"{key}: neither the bytes nor the error of any version of this session"
        self.seen[key] = max(self.seen.get(key, 0), fitting[0])

    @rule(keys=st.lists(KEYS, min_size=1, max_size=6))
    def read_many(self, keys: list[str]) -> None:
        known = [key for key in keys if None not in [data for _, data in self.candidates(key)]]
        for key, view in zip(known, self.cache.read_many([self.url(key) for key in known]), strict=True):
            fitting = [n for n, data in self.candidates(key) if data == bytes(view)]
            assert fitting, f"{key}: the bytes of no version of this session"
            self.seen[key] = max(self.seen.get(key, 0), fitting[0])

    @rule(key=KEYS)
    def stat(self, key: str) -> None:
        try:
            size = self.cache.stat(self.url(key)).size
        except ObjectNotFoundError:
            assert None in [data for _, data in self.candidates(key)]
        else:
            assert size in [len(data) for _, data in self.candidates(key) if data is not None]

    # ---- the cache ----

    @rule()
    def new_session(self) -> None:
        self.cache.close()
        self.cache = self._connect()

    @rule()
    def kill(self) -> None:
        before = kill_engine(self.cache)
        assert self.cache.status()["recovered_blocks"] >= before["blocks"]

    @rule(key=KEYS)
    def evict(self, key: str) -> None:
        self.cache.evict(self.url(key))
        assert self.cache.resident([self.url(key)]) == [0]

    @rule()
    def verify(self) -> None:
        assert self.cache.verify().corrupt == []

    @rule(keys=st.lists(KEYS, max_size=4))
    def prefetch(self, keys: list[str]) -> None:
        done = self.cache.prefetch([self.url(key) for key in keys], wait=True)
        assert done is not None
        assert done.stored + done.passed + len(done.errors) == len(keys)

    @invariant()
    def nothing_is_lost_and_nothing_too_much(self) -> None:
        if hasattr(self, "cache"):
            status = self.cache.status()
            assert 0 <= status["cached_bytes"] <= CAPACITY
            assert status["corrupt_blocks"] == 0
            assert status["direct_bytes"] == 0
            assert sum(size for _, size in self.cache.usage().values()) == status["cached_bytes"]


def outcome(data: bytes | None, offset: int, length: int | None) -> bytes | type[Exception]:
    """What a read of this version gives."""
    if data is None:
        return ObjectNotFoundError
    if offset > len(data) or (length is not None and offset + length > len(data)):
        return RangeError
    return data[offset:] if length is None else data[offset : offset + length]


@pytest.mark.slow
def test_reads_are_right_whatever_happens(s3: SeaweedS3, bucket: str) -> None:
    StoreAndCache.s3, StoreAndCache.bucket = s3, bucket
    run_state_machine_as_test(
        StoreAndCache,
        settings=settings(
            max_examples=6,
            stateful_step_count=20,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
