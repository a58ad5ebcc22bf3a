"""The asynchronous twins: the same answers, and an event loop that goes on meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from support import DataSet

import ioaccel
from ioaccel import Cache, ObjectNotFoundError, RangeError
from ioaccel.testing.countproxy import CountingProxy, Fault
from ioaccel.testing.seaweed import SeaweedS3


@pytest.fixture(scope="module")
def data(s3: SeaweedS3) -> DataSet:
    s3.create_bucket("cache-async")
    return DataSet.fill(s3, "cache-async", [1000, 1, 5_000_000, 17])


@pytest_asyncio.fixture
async def cache(s3: SeaweedS3, tmp_path: Path) -> AsyncIterator[Cache]:
    async with ioaccel.connect(tmp_path, "100MB", s3.storage_options) as cache:
        yield cache


async def test_every_twin(cache: Cache, data: DataSet) -> None:
    first, _, large, _ = data.urls
    assert await cache.aread(first) == await cache.aread(first) == cache.read(first)
    assert await cache.aread(large, 4_000_000, 500_000) == data.data(large)[4_000_000:4_500_000]
    assert [bytes(v) for v in await cache.aread_many(data.urls)] == [data.data(u) for u in data.urls]
    assert await cache.astat(large) == cache.stat(large)
    assert (await cache.amanifest(f"s3://{data.bucket}/")).equals(cache.manifest(f"s3://{data.bucket}/"))
    assert (await cache.averify()).blocks == cache.verify().blocks == 5
    evicted = await cache.aevict(f"s3://{data.bucket}/")
    assert (evicted.blocks, evicted.bytes) == (5, data.nbytes)
    prefetched = await cache.aprefetch(data.urls, wait=True)
    assert prefetched is not None
    assert prefetched.stored == 4
    assert await cache.aprefetch(data.urls) is None
    assert (await cache.astatus())["blocks"] == cache.status()["blocks"] == 5


async def test_errors_are_the_same(cache: Cache, data: DataSet) -> None:
    with pytest.raises(ObjectNotFoundError):
        await cache.aread(data.urls[0] + "x")
    with pytest.raises(ObjectNotFoundError):
        await cache.aread_many([data.urls[0] + "x"])
    with pytest.raises(RangeError):
        await cache.aread(data.urls[0], 2000)
    with pytest.raises(ValueError, match="negative"):
        await cache.aread(data.urls[0], -1)
    cache.close()
    with pytest.raises(ValueError, match=r"connect\(\) again"):
        await cache.aread(data.urls[0])


async def test_many_at_once(cache: Cache, data: DataSet) -> None:
    answers = await asyncio.gather(*(cache.aread(url) for url in data.urls * 50))
    assert answers == [data.data(url) for url in data.urls] * 50
    assert cache.status()["store_bytes"] == data.nbytes


async def test_the_loop_goes_on(s3: SeaweedS3, tmp_path: Path, data: DataSet) -> None:
    with CountingProxy(s3.endpoint, lambda request: Fault(delay=0.5)) as proxy:
        options = {**s3.storage_options, "endpoint_url": proxy.endpoint}
        async with ioaccel.connect(tmp_path, "100MB", options) as cache:
            longest, last, stop = 0.0, time.monotonic(), asyncio.Event()

            async def watch() -> None:
                nonlocal longest, last
                while not stop.is_set():
                    await asyncio.sleep(0.01)
                    longest, last = max(longest, time.monotonic() - last), time.monotonic()

            watcher = asyncio.create_task(watch())
            assert await cache.aread(data.urls[0]) == data.data(data.urls[0])
            assert len(await cache.aread_many(data.urls)) == 4
            await cache.astat(data.urls[1])
            stop.set()
            await watcher
            assert longest < 0.4
