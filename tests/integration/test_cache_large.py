"""What does not fit: reads that are larger than the cache, and than the memory that they pass through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import DataSet

import ioaccel
from ioaccel import Cache
from ioaccel.testing.seaweed import SeaweedS3

MIB = 1 << 20
MB = 10**6


@pytest.fixture(scope="module")
def data(s3: SeaweedS3) -> DataSet:
    s3.create_bucket("cache-large")
    sizes = {"huge": 300 * MB, **{f"large/{n}": 4 * MIB for n in range(24)}}
    return DataSet.fill(s3, "cache-large", sizes)


@pytest.fixture
def full(s3: SeaweedS3, tmp_path: Path, bucket: str) -> Iterator[Cache]:
    """A cache with no room left."""
    other = DataSet.fill(s3, bucket, [9 * MB])
    with ioaccel.connect(tmp_path, 9 * MB, s3.storage_options) as cache:
        cache.read(other.urls[0])
        yield cache


def test_one_read_of_six_times_the_cache(s3: SeaweedS3, tmp_path: Path, data: DataSet) -> None:
    with ioaccel.connect(tmp_path, 50 * MB, s3.storage_options) as cache:
        url = data.url("huge")
        content = memoryview(data.data(url))
        assert cache.read(url) == content
        status = cache.status()
        assert 45 * MB < status["cached_bytes"] <= 50 * MB
        assert status["store_bytes"] >= 300 * MB
        with cache.open(url) as file:
            assert file.seek(100 * MB) == 100 * MB
            assert file.read(80 * MB) == content[100 * MB : 180 * MB]


@pytest.mark.parametrize("count", [17, 23])
def test_a_batch_of_new_objects_that_all_pass_through(full: Cache, data: DataSet, count: int) -> None:
    urls = data.urls[1 : count + 1]
    full.read_many([(url, 0, 1) for url in data.urls[:1]])  # the cache knows that it is full
    batch = full.read_many(urls)
    assert [len(view) for view in batch] == [data.sizes[url.split("/", 3)[3]] for url in urls]
    assert all(bytes(view) == data.data(url) for view, url in zip(batch, urls, strict=True))


def test_a_batch_of_large_and_small_that_passes_through(full: Cache, data: DataSet) -> None:
    huge, *large = data.urls
    content = memoryview(data.data(huge))
    extents = [(huge, 0, 72 * MB), *large[:5], (huge, 7, 9), (huge, 220 * MB, None)]
    want = [content[: 72 * MB], *map(data.data, large[:5]), content[7:16], content[220 * MB :]]
    for view, content in zip(full.read_many(extents), want, strict=True):
        assert bytes(view) == content
