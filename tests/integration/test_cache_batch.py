"""A batch's memory is its own for as long as anything looks at it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import pytest
from support import DataSet

import ioaccel
from ioaccel import Cache
from ioaccel.testing.seaweed import SeaweedS3

MIB = 1 << 20


@pytest.fixture(scope="module")
def data(s3: SeaweedS3) -> DataSet:
    s3.create_bucket("cache-batch")
    return DataSet.fill(s3, "cache-batch", [3 * MIB] * 6)


@pytest.fixture(scope="module")
def cache(s3: SeaweedS3, data: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cache]:
    with ioaccel.connect(tmp_path_factory.mktemp("cache"), "100MB", s3.storage_options) as cache:
        cache.prefetch(data.urls, wait=True)
        yield cache


def test_a_batch_is_a_sequence_over_one_buffer(cache: Cache, data: DataSet) -> None:
    batch = cache.read_many([(data.urls[0], 0, 10), (data.urls[1], 5, 0), (data.urls[2], 7, 20)])
    assert (len(batch), batch.nbytes, batch.offsets.tolist()) == (3, 30, [0, 10, 10, 30])
    assert batch.buffer.dtype == np.uint8
    assert batch.buffer.tobytes() == b"".join(batch)
    assert bytes(batch[-1]) == bytes(batch[2]) == data.data(data.urls[2])[7:27]
    assert [bytes(v) for v in batch[::2]] == [bytes(batch[0]), bytes(batch[2])]
    with pytest.raises(IndexError):
        batch[3]
    with pytest.raises(IndexError):
        batch[-4]


def test_memory_is_not_used_again_while_a_view_lives(cache: Cache, data: DataSet) -> None:
    kept = []
    for n in range(30):
        urls = data.shuffled(n)[:3]
        batch = cache.read_many(urls)
        views = [batch[0][100:], np.frombuffer(batch[1], np.uint8), memoryview(batch.buffer)[-9:]]
        kept.append((urls, [batch, batch[2], iter(batch), *views][n % 6]))
        del batch, views
        gc.collect()
    for n, (urls, view) in enumerate(kept):
        first, second, third = map(data.data, urls)
        want = [first, third, first, first[100:], second, third[-9:]][n % 6]
        got = next(iter(view)) if n % 6 in (0, 2) else view
        assert bytes(got) == want


def test_memory_is_used_again_afterwards(cache: Cache, data: DataSet) -> None:
    addresses = set()
    for n in range(20):
        batch = cache.read_many(data.shuffled(n)[:3])
        addresses.add(batch.buffer.ctypes.data)
        del batch
    assert len(addresses) < 5


def test_what_a_caller_writes_into_a_batch_stays_there(cache: Cache, data: DataSet) -> None:
    batch = cache.read_many(data.urls)
    batch.buffer[:] = 0
    assert not any(batch[3])
    assert all(
        bytes(view) == data.data(url) for view, url in zip(cache.read_many(data.urls), data.urls, strict=True)
    )


def test_a_batch_outlives_its_cache(s3: SeaweedS3, data: DataSet, cache: Cache) -> None:
    with ioaccel.connect(cache.directories[0], storage_options=s3.storage_options) as other:
        batch = other.read_many(data.urls)
    gc.collect()
    assert all(bytes(view) == data.data(url) for view, url in zip(batch, data.urls, strict=True))
