"""Readers, writers of the store, evictions, warm-ups and new sessions, all at the same time."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import DataSet, kill_engine

import ioaccel
from ioaccel import Cache, IOAccelError, ObjectChangedError, RangeError
from ioaccel.testing.seaweed import SeaweedS3

KIB, MIB = 1 << 10, 1 << 20
SECONDS = 3.0
VERSIONS = 4


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True])
def test_everything_at_once(s3: SeaweedS3, bucket: str, tmp_path: Path, kill: bool) -> None:
    sizes = {f"small/{n}": n * 997 for n in range(60)} | {f"large/{n}": 9 * MIB + n for n in range(3)}
    data = DataSet.fill(s3, bucket, sizes)
    contents = {url: [data.data(url, version) for version in range(VERSIONS)] for url in data.urls}
    stop, failures = threading.Event(), []
    counts: dict[str, int] = {}

    def check(url: str, got: bytes | memoryview, offset: int, length: int | None) -> None:
        stop_at = None if length is None else offset + length
        read = bytes(got)  # a memoryview is compared item by item
        assert any(read == content[offset:stop_at] for content in contents[url]), (url, offset, length)

    def read(cache: Cache, draw: random.Random) -> None:
        urls = draw.sample(data.urls, draw.randrange(1, 12))
        extents = [(url, draw.randrange(len(contents[url][0]) + 1), None) for url in urls]
        try:
            for (url, offset, _), view in zip(extents, cache.read_many(extents), strict=True):
                check(url, view, offset, None)
            url = urls[0]
            check(url, cache.read(url), 0, None)
            with cache.open(url) as file:
                check(url, file.read(1000) + file.read(), 0, None)
        except ObjectChangedError:
            pass

    def replace(_: Cache, draw: random.Random) -> None:
        key = draw.choice(list(sizes))
        s3.put(bucket, key, data.data(key, draw.randrange(VERSIONS)))
        time.sleep(0.05)

    def evict(cache: Cache, draw: random.Random) -> None:
        cache.evict(draw.choice([*data.urls, f"s3://{bucket}/small/"]))
        time.sleep(0.02)

    def warm(cache: Cache, draw: random.Random) -> None:
        cache.prefetch(draw.sample(data.urls, 10), wait=draw.random() < 0.5)

    def look(cache: Cache, draw: random.Random) -> None:
        assert cache.verify().corrupt == []
        assert all(count > 0 for count, _ in cache.usage().values())
        assert cache.status()["corrupt_blocks"] == 0

    def kill_now_and_then(cache: Cache, draw: random.Random) -> None:
        time.sleep(draw.uniform(0.3, 1.0))
        kill_engine(cache)

    def go(work: Callable[[Cache, random.Random], None], seed: int) -> None:
        draw, name = random.Random(seed), work.__name__
        try:
            while not stop.is_set():
                with ioaccel.connect(tmp_path, "16MB", s3.storage_options) as cache:
                    for _ in range(5):
                        try:
                            work(cache, draw)
                        except (IOAccelError, ProcessLookupError) as error:
                            # Without an engine for a moment, there is nothing to ask or to kill.
                            if not kill or isinstance(error, RangeError) or work is read:
                                raise
                        counts[name] = counts.get(name, 0) + 1
        except BaseException as error:  # noqa: BLE001  # raised below
            failures.append(error)
            stop.set()

    work = [read, read, read, replace, evict, warm, look, *([kill_now_and_then] if kill else [])]
    threads = [threading.Thread(target=go, args=(each, n)) for n, each in enumerate(work)]
    for thread in threads:
        thread.start()
    stop.wait(SECONDS)
    stop.set()
    for thread in threads:
        thread.join(30)
    if failures:
        raise failures[0]
    assert counts["read"] > 20
    assert len(counts) == len(set(work))
