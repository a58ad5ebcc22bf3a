"""A cache that holds a fraction c of the data serves exactly c of every epoch after the first.

No policy can do better on shuffled epochs, and LRU does far worse (``docs/design/0001``). What the store
sends is counted outside ioaccel, by a proxy in front of it.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import DataSet

import ioaccel
from ioaccel import Cache
from ioaccel.testing.countproxy import CountingProxy
from ioaccel.testing.seaweed import SeaweedS3

KIB, MIB = 1 << 10, 1 << 20
EPOCHS = 3
BATCH = 32


@pytest.fixture
def proxy(s3: SeaweedS3) -> Iterator[CountingProxy]:
    with CountingProxy(s3.endpoint) as proxy:
        yield proxy


class Counted:
    """Runs epochs and says what each took from the cache and from the store."""

    def __init__(self, proxy: CountingProxy, data: DataSet) -> None:
        self._proxy = proxy
        self._data = data

    def epoch(self, cache: Cache, read: Callable[[], None]) -> tuple[int, int]:
        """``(hit bytes, store bytes)`` of one epoch, but for what was asked twice because it took long."""
        self._proxy.reset()
        before = cache.status()
        read()
        after = cache.status()
        assert after["direct_bytes"] == before["direct_bytes"] == 0
        hedged = (after["store_hedged"] - before["store_hedged"]) * max(self._data.sizes.values())
        return after["hit_bytes"] - before["hit_bytes"], self._proxy.reset().bytes["GET"] - hedged

    def assert_exact(self, counted: tuple[int, int], cached: int) -> None:
        hit_bytes, store_bytes = counted
        assert hit_bytes == cached
        assert store_bytes <= self._data.nbytes - cached + 0.01 * self._data.nbytes


def read_all(cache: Cache, data: DataSet, urls: list[str]) -> None:
    for start in range(0, len(urls), BATCH):
        some = urls[start : start + BATCH]
        for url, view in zip(some, cache.read_many(some), strict=True):
            assert bytes(view) == data.data(url)


@pytest.mark.parametrize(
    ("count", "size", "fraction"),
    [
        (1000, 1 * KIB, 0.5),
        (400, 10 * KIB, 0.9),
        (120, 110 * KIB, 0.5),
        (40, MIB, 0.25),
        (20, 2800 * KIB, 0.9),
        (6, 9 * MIB, 0.5),
    ],
)
def test_three_epochs_of_one_session(
    s3: SeaweedS3, proxy: CountingProxy, bucket: str, tmp_path: Path, count: int, size: int, fraction: float
) -> None:
    data = DataSet.fill(s3, bucket, [size] * count)
    cached = int(count * fraction) * size
    counted = Counted(proxy, data)
    options = {**s3.storage_options, "endpoint_url": proxy.endpoint}
    with ioaccel.connect(tmp_path, cached, options) as cache:
        for number in range(EPOCHS):
            epoch = counted.epoch(cache, lambda n=number: read_all(cache, data, data.shuffled(n)))
            counted.assert_exact(epoch, cached if number else 0)


@pytest.mark.parametrize("fraction", [0.25, 0.9])
def test_every_epoch_is_a_session_of_its_own(
    s3: SeaweedS3, proxy: CountingProxy, bucket: str, tmp_path: Path, fraction: float
) -> None:
    data = DataSet.fill(s3, bucket, [110 * KIB] * 300)
    cached = int(300 * fraction) * 110 * KIB
    counted = Counted(proxy, data)
    options = {**s3.storage_options, "endpoint_url": proxy.endpoint}
    for number in range(EPOCHS):
        with ioaccel.connect(tmp_path, cached, options) as cache:
            epoch = counted.epoch(cache, lambda c=cache, n=number: read_all(c, data, data.shuffled(n)))
            if number:
                counted.assert_exact(epoch, cached)


def work(cache: Cache, data: DataSet, urls: list[str], start: Any) -> None:
    start.wait(20)
    read_all(cache, data, urls)


def test_two_workers_read_every_epoch(
    s3: SeaweedS3, proxy: CountingProxy, bucket: str, tmp_path: Path
) -> None:
    data = DataSet.fill(s3, bucket, [50 * KIB] * 400)
    cached = 200 * 50 * KIB
    counted = Counted(proxy, data)
    options = {**s3.storage_options, "endpoint_url": proxy.endpoint}
    context = multiprocessing.get_context("fork")

    def epoch_with_workers(cache: Cache, number: int) -> None:
        urls, start = data.shuffled(number), context.Barrier(2)
        workers = [context.Process(target=work, args=(cache, data, urls[n::2], start)) for n in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(30)
            assert worker.exitcode == 0

    for number in range(EPOCHS):
        with ioaccel.connect(tmp_path, cached, options) as cache:
            epoch = counted.epoch(cache, lambda c=cache, n=number: epoch_with_workers(c, n))
            if number:
                counted.assert_exact(epoch, cached)


def test_directories_of_unequal_size(
    s3: SeaweedS3, proxy: CountingProxy, bucket: str, tmp_path: Path
) -> None:
    size = 64 * KIB
    data = DataSet.fill(s3, bucket, [size] * 400)
    counted = Counted(proxy, data)
    options = {**s3.storage_options, "endpoint_url": proxy.endpoint}
    directories = [tmp_path / name for name in "cab"]
    sizes = [20 * size, 150 * size, 50 * size]
    with ioaccel.connect(directories, sizes, options) as cache:
        for number in range(EPOCHS):
            epoch = counted.epoch(cache, lambda n=number: read_all(cache, data, data.shuffled(n)))
            if number:
                counted.assert_exact(epoch, sum(sizes))
        shards = {s["directory"]: s["cached_bytes"] for s in cache.status()["shards"]}
        assert shards == {str(d): n for d, n in zip(directories, sizes, strict=True)}


def test_objects_of_all_sizes_fill_the_cache(
    s3: SeaweedS3, proxy: CountingProxy, bucket: str, tmp_path: Path
) -> None:
    sizes = [int(1.1**n) for n in range(36, 161)]  # 31 bytes to 4.2 MB
    data = DataSet.fill(s3, bucket, sizes)
    options = {**s3.storage_options, "endpoint_url": proxy.endpoint}
    counted = Counted(proxy, data)
    with ioaccel.connect(tmp_path, data.nbytes // 2, options) as cache:
        for number in range(2):
            hit_bytes, store_bytes = counted.epoch(
                cache, lambda n=number: read_all(cache, data, data.shuffled(n))
            )
        assert data.nbytes // 2 - max(sizes) <= cache.status()["cached_bytes"] <= data.nbytes // 2
        assert hit_bytes >= data.nbytes // 2 - max(sizes)
        assert hit_bytes + store_bytes <= 1.01 * data.nbytes


def test_segments_that_hold_two_blocks_and_no_third(tmp_path: Path) -> None:
    size = 2_850_000  # of 8.4 MB: the smallest segment there is
    paths = [tmp_path / f"{n}.bin" for n in range(60)]
    for path in paths:
        with open(path, "wb") as file:
            file.truncate(size)
    with ioaccel.connect(tmp_path / "cache", 54 * size) as cache:
        assert cache.prefetch(paths, wait=True) == (54, 6, [])


def test_a_new_data_set_takes_the_place_of_one_that_nobody_reads(
    s3: SeaweedS3, bucket: str, tmp_path: Path
) -> None:
    s3.create_bucket(bucket + "-old")
    old = DataSet.fill(s3, bucket + "-old", [60 * KIB] * 400)
    new = DataSet.fill(s3, bucket, [60 * KIB] * 400)
    size = 400 * 60 * KIB
    with ioaccel.connect(tmp_path, size, s3.storage_options) as cache:
        assert cache.prefetch(old.urls, wait=True) == (400, 0, [])
    with ioaccel.connect(tmp_path, size, s3.storage_options) as cache:
        for number in range(3):
            before = cache.status()["hit_bytes"]
            read_all(cache, new, new.shuffled(number))
        assert cache.status()["hit_bytes"] - before == size
        assert sum(cache.resident(old.urls)) == 0
