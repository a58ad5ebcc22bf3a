"""Filling a cache ahead, looking into it, and taking things out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import DataSet, kill_engine, wait_for

import ioaccel
from ioaccel import Cache, ObjectNotFoundError
from ioaccel.testing.countproxy import CountingProxy
from ioaccel.testing.seaweed import SeaweedS3

MIB = 1 << 20
SIZES = {f"{top}/{n}": size for top in ("train", "val") for n, size in enumerate([1000, 5 * MIB, 0, 9 * MIB])}


@pytest.fixture(scope="module")
def data(s3: SeaweedS3) -> DataSet:
    s3.create_bucket("cache-manage")
    return DataSet.fill(s3, "cache-manage", SIZES)


@pytest.fixture(scope="module")
def proxy(s3: SeaweedS3) -> Iterator[CountingProxy]:
    with CountingProxy(s3.endpoint) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def shared(s3: SeaweedS3, proxy: CountingProxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cache]:
    options = {**s3.storage_options, "endpoint_url": proxy.endpoint}
    with ioaccel.connect(tmp_path_factory.mktemp("cache"), "100MB", options) as cache:
        yield cache


@pytest.fixture
def cache(shared: Cache, data: DataSet, proxy: CountingProxy) -> Cache:
    """An empty cache."""
    shared.evict(f"s3://{data.bucket}/")
    proxy.reset()
    return shared


def test_prefetch_and_wait(cache: Cache, data: DataSet, proxy: CountingProxy) -> None:
    done = cache.prefetch(data.urls, wait=True)
    assert done == (len(data.urls), 0, [])
    assert 0 <= proxy.reset().bytes["GET"] - data.nbytes < 1000  # what the store says of empty objects
    assert [bytes(v) for v in cache.read_many(data.urls)] == [data.data(u) for u in data.urls]
    assert proxy.reset().bytes["GET"] == 0


def test_prefetch_in_the_background(cache: Cache, data: DataSet, proxy: CountingProxy) -> None:
    extents = [data.url("train/0"), (data.url("train/3"), 5 * MIB, 10)]
    assert cache.prefetch(extents) is None
    wait_for(lambda: sum(cache.resident(data.urls)) == 1000 + 4 * MIB)
    assert proxy.reset().bytes["GET"] == 1000 + 4 * MIB
    assert cache.read(data.url("train/3"), 5 * MIB, 10) == data.data("train/3")[5 * MIB : 5 * MIB + 10]
    assert proxy.reset().bytes["GET"] == 0


def test_prefetch_says_what_went_wrong(cache: Cache, data: DataSet) -> None:
    missing = data.url("train/missing")
    done = cache.prefetch([data.url("train/0"), missing], wait=True)
    assert done is not None
    assert (done.stored, done.passed) == (1, 0)
    assert [(type(error), error.url) for error in done.errors] == [(ObjectNotFoundError, missing)]
    cache.prefetch([missing])  # shows when it is read
    with pytest.raises(ObjectNotFoundError):
        cache.read(missing)


def test_prefetch_stops_when_the_cache_is_full(s3: SeaweedS3, tmp_path: Path, bucket: str) -> None:
    more = DataSet.fill(s3, bucket, [10_000] * 700)
    with ioaccel.connect(tmp_path, 300 * 10_000, s3.storage_options) as cache:
        done = cache.prefetch(more.urls, wait=True)
        assert done == (300, 400, [])
        assert cache.status()["cached_bytes"] == 300 * 10_000
        assert cache.status()["store_bytes"] < 600 * 10_000


def test_stat(cache: Cache, data: DataSet, proxy: CountingProxy, s3: SeaweedS3) -> None:
    for key, size in SIZES.items():
        info = cache.stat(data.url(key))
        assert (info.url, info.size) == (data.url(key), size)
        assert info.version == s3.put(data.bucket, key, data.data(key))
    assert proxy.reset().bytes["GET"] == 0


def test_evict_an_object_a_prefix_and_nothing(cache: Cache, data: DataSet) -> None:
    cache.read_many(data.urls)
    assert cache.evict(data.url("train/3")) == (3, 9 * MIB)
    assert cache.resident([data.url("train/3"), data.url("train/1")]) == [0, 5 * MIB]
    assert cache.evict(data.url("train/3")) == (0, 0)
    assert cache.evict(data.url("tra")) == (0, 0)
    assert cache.evict(data.url("train/")).bytes == 1000 + 5 * MIB
    assert cache.resident(data.urls) == [0, 0, 0, 0, 1000, 5 * MIB, 0, 9 * MIB]
    assert [bytes(v) for v in cache.read_many(data.urls)] == [data.data(u) for u in data.urls]


def test_evict_what_begins_in_the_middle(cache: Cache, data: DataSet) -> None:
    cache.read(data.url("train/3"), 8 * MIB, 1)
    assert cache.resident([data.url("train/3")]) == [1 * MIB]
    assert cache.evict(data.url("train/3")) == (1, 1 * MIB)
    assert cache.status()["cached_bytes"] == 0


def test_what_was_evicted_stays_away_after_a_crash(s3: SeaweedS3, tmp_path: Path, data: DataSet) -> None:
    with ioaccel.connect(tmp_path, "100MB", s3.storage_options) as cache:
        cache.read_many(data.urls)
        cache.evict(data.url("train/"))
        before = kill_engine(cache)
        after = cache.status()
        assert after["recovered_blocks"] == before["blocks"]
        assert cache.resident([data.url("train/1"), data.url("val/1")]) == [0, 5 * MIB]


def test_usage_by_prefix(cache: Cache, data: DataSet) -> None:
    cache.read_many(data.urls)
    root = f"s3://{data.bucket}/"
    half = 1000 + 14 * MIB
    blocks = 1 + 2 + 3
    usage = cache.usage()
    assert {prefix: size for prefix, (_, size) in usage.items()} == {
        root + "train/": half,
        root + "val/": half,
    }
    assert all(blocks <= count <= blocks + 1 for count, _ in usage.values())  # one for what is empty
    assert cache.usage(0)[root][1] == cache.status()["cached_bytes"] == 2 * half


def test_verify_a_sound_cache(cache: Cache, data: DataSet) -> None:
    cache.read_many(data.urls)
    steps: list[tuple[int, int]] = []
    result = cache.verify(lambda done, total: steps.append((done, total)))
    assert (result.blocks, result.bytes) == (cache.status()["blocks"], data.nbytes)
    assert (result.corrupt, result.errors) == ([], [])
    assert [done for done, _ in steps] == list(range(1, steps[-1][1] + 1))


def test_an_object_that_became_empty_counts_once(cache: Cache, data: DataSet, s3: SeaweedS3) -> None:
    """Its block stands where the removed one stood. Found by tests/property/test_cache_model.py."""
    url = f"s3://{data.bucket}/other/x"
    s3.put(data.bucket, "other/x", b"x")
    assert cache.read(url) == b"x"
    s3.put(data.bucket, "other/x", b"")
    assert cache.evict(url) == (1, 1)
    assert cache.prefetch([url], wait=True) == (1, 0, [])
    assert cache.usage() == {f"s3://{data.bucket}/other/": (1, 0)}
    assert cache.verify() == (1, 0, [], [])


def test_manifest(cache: Cache, data: DataSet, s3: SeaweedS3, proxy: CountingProxy) -> None:
    table = cache.manifest(f"s3://{data.bucket}/train")
    root = table.schema.metadata[b"ioaccel.root"].decode()
    found = {
        root + key: size for key, size in zip(*(table[c].to_pylist() for c in ("key", "size")), strict=True)
    }
    assert found == {data.url(key): size for key, size in SIZES.items() if key.startswith("train/")}
    assert table["version"].to_pylist() == [
        cache.stat(root + key).version for key in table["key"].to_pylist()
    ]
    proxy.reset()
    assert cache.manifest(f"s3://{data.bucket}/train").equals(table)
    assert proxy.reset().requests.total() == 0
    s3.put(data.bucket, "train/new", b"x")
    try:
        assert "train/new" not in cache.manifest(f"s3://{data.bucket}/train")["key"].to_pylist()
        assert "train/new" in cache.manifest(f"s3://{data.bucket}/train", refresh=True)["key"].to_pylist()
    finally:
        s3.delete(data.bucket, "train/new")
    with pytest.raises(ObjectNotFoundError):
        cache.manifest(f"s3://{data.bucket}/no/such/directory")


def test_a_manifest_checks_a_data_set(
    s3: SeaweedS3, tmp_path: Path, data: DataSet, proxy: CountingProxy
) -> None:
    options = {**s3.storage_options, "endpoint_url": proxy.endpoint}
    with ioaccel.connect(tmp_path, "100MB", options) as cache:
        cache.read_many(data.urls)
    proxy.reset()
    with ioaccel.connect(tmp_path, "100MB", options) as cache:
        cache.manifest(f"s3://{data.bucket}/")
        requests = proxy.reset().requests.total()
        assert [bytes(v) for v in cache.read_many(data.urls)] == [data.data(u) for u in data.urls]
        assert (requests, proxy.reset().requests.total()) == (1, 0)


def test_status_counts_clients(cache: Cache, s3: SeaweedS3) -> None:
    directory = cache.directories[0]
    before = cache.status()["clients"]
    with ioaccel.connect(directory, storage_options=s3.storage_options):
        assert cache.status()["clients"] == before + 1
    wait_for(lambda: cache.status()["clients"] == before)
