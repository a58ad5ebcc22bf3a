"""What is evicted when the cache is full: what nobody reads, least recently used first."""

from __future__ import annotations

import os
import random

import pytest

import ioaccel

SIZE = 100_000


@pytest.fixture
def two(s3, bucket):
    """The URLs of two data sets of 250 objects in two buckets, 25 MB each."""
    other = f"{bucket}-other"
    s3.create_bucket(other)
    sets = []
    for name in (bucket, other):
        s3.put_many(name, ((f"d/{n:03d}", random.randbytes(SIZE)) for n in range(250)))
        sets.append([f"s3://{name}/d/{n:03d}" for n in range(250)])
    return sets


def cached(cache: ioaccel.Cache, urls: list[str]) -> int:
    return sum(cache.resident(urls))


def test_what_a_worker_read_is_its_jobs_after_it_left(s3, two, tmp_path):
    mine, others = two
    job = ioaccel.connect(tmp_path, "25MB", s3.storage_options, consistency="immutable")
    with job:
        with ioaccel.connect(tmp_path, storage_options=s3.storage_options) as warm:
            warm.read_many(mine)
        # All that the job reads are hits, so the engine knows of it from its worker's page alone.
        worker = os.fork()
        if worker == 0:
            job.read_many(mine)
            os._exit(0)
        assert os.waitpid(worker, 0)[1] == 0
        with ioaccel.connect(tmp_path, storage_options=s3.storage_options) as newcomer:
            newcomer.read_many(others)
            assert cached(newcomer, mine) == len(mine) * SIZE


def test_the_least_recently_read_goes_first(s3, two, tmp_path):
    old, used = two
    with ioaccel.connect(tmp_path, "50MB", s3.storage_options) as cache:
        cache.read_many(used)  # written first ...
        cache.read_many(old)
        with ioaccel.connect(tmp_path, storage_options=s3.storage_options) as reader:
            reader.read_many(used)  # ... and read last
        # A third data set, of files, in a session of its own; the first one goes on and holds nothing.
        path = tmp_path / "file"
        path.write_bytes(random.randbytes(8_000_000))
    with ioaccel.connect(tmp_path, storage_options=s3.storage_options) as keeper:
        keeper.read_many(used)
    with ioaccel.connect(tmp_path, storage_options=s3.storage_options) as newcomer:
        newcomer.read(str(path))
        left_old, left_used = cached(newcomer, old), cached(newcomer, used)
    assert left_used == len(used) * SIZE
    assert left_old < len(old) * SIZE


def test_a_small_cache_takes_no_more_of_the_disk_than_it_holds(s3, two, tmp_path):
    """Its segments are a good part of it, so those that are only begun must not take their whole size."""
    with ioaccel.connect(tmp_path, "11MB", s3.storage_options) as cache:
        cache.read_many(two[0])
        assert cached(cache, two[0]) == 11_000_000
        assert (tmp_path / "shard.data").stat().st_blocks * 512 < 1.05 * 11_000_000


def test_a_full_cache_of_one_segment_goes_to_the_next_job(s3, two, tmp_path):
    first, second = two
    with ioaccel.connect(tmp_path, "5MB", s3.storage_options) as one:
        one.read_many(first[:60])
        assert cached(one, first) == 50 * SIZE
        another = ioaccel.connect(tmp_path, storage_options=s3.storage_options)
    with another:
        for _ in range(3):
            another.read_many(second[:50])
        assert cached(another, second) == 50 * SIZE
