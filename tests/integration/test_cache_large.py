"""What does not fit: reads that are larger than the cache, and than the memory that they pass through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import DataSet

import ioaccel
from ioaccel import Cache, ObjectChangedError
from ioaccel.client.pinned import read_bytes
from ioaccel.client.reader import TooLong
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


def test_a_batch_of_objects_of_several_blocks_is_fetched_once(
    s3: SeaweedS3, tmp_path: Path, bucket: str
) -> None:
    """None of them can be finished in the answer that meets it, and all together are more than the memory
    that they pass through."""
    data = DataSet.fill(s3, bucket, [9 * MB] * 40)
    with ioaccel.connect(tmp_path, 60 * MB, s3.storage_options) as cache:
        before = 0
        for epoch in range(3):
            batch = cache.read_many(data.urls)
            assert all(bytes(view) == data.data(url) for view, url in zip(batch, data.urls, strict=True))
            status = cache.status()
            in_cache = status["cached_bytes"] if epoch else 0
            assert status["store_bytes"] - before == 360 * MB - in_cache
            before = status["store_bytes"]


def test_versions_are_known_of_what_comes_in_several_answers(full: Cache, data: DataSet) -> None:
    reader, urls = full._reader, data.urls[1:]
    before = full.status()["store_bytes"]
    batch, versions = reader.read_versions(urls)
    assert [bytes(part) for part in batch] == [data.data(url) for url in urls]
    assert all(versions)
    assert read_bytes(reader, [(url, 0, None) for url in urls], versions) == list(map(bytes, batch))
    assert full.status()["store_bytes"] - before == 2 * 24 * 4 * MIB
    with pytest.raises(ObjectChangedError):
        read_bytes(reader, [(url, 0, None) for url in urls], [*versions[:-1], versions[-1] ^ 1])


def test_what_is_too_long_is_found_in_a_later_answer_too(full: Cache, data: DataSet) -> None:
    urls = [*data.urls[1:], data.urls[0]]
    with pytest.raises(TooLong):
        full._reader.read_all_small(urls, 4 * MIB)
    assert full.status()["passed_bytes"] < 200 * MB


def test_a_batch_of_large_and_small_that_passes_through(full: Cache, data: DataSet) -> None:
    huge, *large = data.urls
    content = memoryview(data.data(huge))
    extents = [(huge, 0, 72 * MB), *large[:5], (huge, 7, 9), (huge, 220 * MB, None)]
    want = [content[: 72 * MB], *map(data.data, large[:5]), content[7:16], content[220 * MB :]]
    for view, content in zip(full.read_many(extents), want, strict=True):
        assert bytes(view) == content


def test_an_object_that_was_opened_is_not_fetched_again_to_be_read(full: Cache, data: DataSet) -> None:
    before = full.status()["store_bytes"]
    for url in data.urls[1:9]:
        with full.open(url) as file:
            assert file.read() == data.data(url)
    assert full.status()["store_bytes"] - before == 8 * 4 * MIB


def test_small_steps_through_an_object_that_passes_through(full: Cache, data: DataSet) -> None:
    content = memoryview(data.data(data.url("huge")))
    with full.open(data.url("huge")) as file:
        before = full.status()["store_bytes"]
        steps = [file.read(10_007) for _ in range(2000)]
        assert b"".join(steps) == content[: 2000 * 10_007]
        fetched = full.status()["store_bytes"] - before
        assert fetched == 4 * 4 * MIB, "each block once, and the first when it was opened"
        for start in (150 * MB, 3, 2 * MIB + 1, 3 * MIB, 300 * MB - 5):
            assert file.seek(start) == start
            assert file.read(50_000) == content[start : start + 50_000]
