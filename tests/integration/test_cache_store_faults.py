"""A store that fails, is slow, refuses or is not there: reads succeed in the end, or say in time why not."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator

import pytest
from support import DataSet, kill_engine

import ioaccel
from ioaccel import AccessDeniedError, Cache, ObjectNotFoundError, StoreError, StoreTimeoutError
from ioaccel.testing.countproxy import CountingProxy, Fault, Hook, Request
from ioaccel.testing.seaweed import SeaweedS3

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture(scope="module")
def data(s3: SeaweedS3) -> DataSet:
    s3.create_bucket("cache-faults")
    return DataSet.fill(s3, "cache-faults", [50 * KIB] * 40 + [9 * MIB])


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
def cache(shared: Cache, data: DataSet, proxy: CountingProxy) -> Iterator[Cache]:
    """An empty cache, and a store that is sound again after the test."""
    shared.evict(f"s3://{data.bucket}/")
    yield shared
    proxy.hook = None


def sometimes(fault: Fault, share: float, seed: int = 1) -> Hook:
    """A hook that has ``fault`` befall this share of all requests."""
    draw = random.Random(seed)
    return lambda request: fault if draw.random() < share else None


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=503),
        Fault(status=500),
        Fault(status=429, headers={"Retry-After": "1"}),
        Fault(cut_after=-1),
        Fault(cut_after=-1, reset=True),
        Fault(cut_after=0),
        Fault(cut_after=10_000),
        Fault(cut_after=10_000, reset=True),
    ],
    ids=repr,
)
def test_a_third_of_all_requests_fail(
    cache: Cache, data: DataSet, proxy: CountingProxy, fault: Fault
) -> None:
    proxy.hook = sometimes(fault, 0.33)
    before = cache.status()
    assert all(bytes(v) == data.data(u) for v, u in zip(cache.read_many(data.urls), data.urls, strict=True))
    after = cache.status()
    assert after["store_retries"] - before["store_retries"] >= 5
    if fault.status in (503, 429):
        assert after["store_throttled"] > before["store_throttled"]
    assert after["direct_bytes"] == 0


def test_a_storm_of_503_that_passes(cache: Cache, data: DataSet, proxy: CountingProxy) -> None:
    until = time.monotonic() + 1.0
    proxy.hook = lambda request: Fault(status=503) if time.monotonic() < until else None
    assert all(bytes(v) == data.data(u) for v, u in zip(cache.read_many(data.urls), data.urls, strict=True))


def test_a_store_that_never_recovers(
    s3: SeaweedS3, cache: Cache, data: DataSet, proxy: CountingProxy
) -> None:
    proxy.hook = lambda request: Fault(status=503)
    with open_with_timeout(cache, s3, proxy.endpoint, 1.5) as hurried:
        began = time.monotonic()
        with pytest.raises(StoreError, match="gave up after") as caught:
            hurried.read(data.urls[0])
        assert time.monotonic() - began < 3
        assert (caught.value.url, caught.value.attempts > 1) == (data.urls[0], True)
        with pytest.raises(StoreError):
            hurried.read_many(data.urls)
        with pytest.raises(StoreError):
            hurried.open(data.urls[0])
        with pytest.raises(StoreError):
            hurried.stat(data.urls[0])
        proxy.hook = None
        assert hurried.read(data.urls[0]) == data.data(data.urls[0])


def open_with_timeout(cache: Cache, s3: SeaweedS3, endpoint: str, seconds: float) -> Cache:
    options = {**s3.storage_options, "endpoint_url": endpoint}
    return ioaccel.connect(cache.directories[0], storage_options=options, timeout=seconds)


def test_a_store_that_is_too_slow(s3: SeaweedS3, cache: Cache, data: DataSet, proxy: CountingProxy) -> None:
    proxy.hook = lambda request: Fault(delay=3.0)
    with open_with_timeout(cache, s3, proxy.endpoint, 0.7) as hurried:
        for read in (hurried.read, hurried.stat, hurried.open, lambda url: hurried.read_many([url])):
            began = time.monotonic()
            with pytest.raises(StoreTimeoutError) as caught:
                read(data.urls[0])  # type: ignore[operator]
            assert 0.6 < time.monotonic() - began < 2.5
            assert caught.value.url == data.urls[0]
            assert isinstance(caught.value, TimeoutError)
    proxy.hook = None
    assert cache.read(data.urls[1]) == data.data(data.urls[1])


def test_one_slow_object_does_not_hold_up_others(cache: Cache, data: DataSet, proxy: CountingProxy) -> None:
    slow = data.urls[3].rpartition("/")[2]
    proxy.hook = lambda request: Fault(delay=2.0) if slow in request.path else None
    began = time.monotonic()
    cache.prefetch([data.urls[3]])
    for url in data.urls[4:]:
        assert cache.read(url) == data.data(url)
    assert time.monotonic() - began < 1.5
    assert cache.read(data.urls[3]) == data.data(data.urls[3])


def test_a_store_that_is_not_there(s3: SeaweedS3, cache: Cache, data: DataSet) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    with open_with_timeout(cache, s3, endpoint, 1.5) as lost:
        began = time.monotonic()
        with pytest.raises(StoreError, match="Connection refused"):
            lost.read(data.urls[0])
        assert time.monotonic() - began < 3
        kill_engine(lost)
        assert cache.read(data.urls[0]) == data.data(data.urls[0])
        with pytest.raises(StoreError, match="Connection refused"):
            lost.read(data.urls[0])


def test_an_endpoint_that_swallows_everything(s3: SeaweedS3, cache: Cache, data: DataSet) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as deaf:
        endpoint = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with open_with_timeout(cache, s3, endpoint, 1.0) as lost:
            began = time.monotonic()
            with pytest.raises(StoreTimeoutError):
                lost.read(data.urls[0])
            assert time.monotonic() - began < 3


def test_wrong_credentials_see_nothing_of_what_others_cached(
    s3: SeaweedS3, cache: Cache, data: DataSet
) -> None:
    url = data.urls[0]
    assert cache.read(url) == data.data(url)
    for changed in ({"secret": "wrong"}, {"key": "nobody"}):
        options = {**s3.storage_options, **changed}
        with ioaccel.connect(cache.directories[0], storage_options=options) as other:
            for read in (other.read, other.open, other.stat, other.manifest):
                with pytest.raises(AccessDeniedError) as caught:
                    read(url)
                assert caught.value.url == url
                assert isinstance(caught.value, PermissionError)
            assert other.resident([url]) == [0]
    assert cache.resident([url]) == [len(data.data(url))]


def test_one_bad_object_in_a_batch(cache: Cache, data: DataSet, proxy: CountingProxy) -> None:
    missing = data.urls[0] + ".missing"
    with pytest.raises(ObjectNotFoundError) as caught:
        cache.read_many([*data.urls[:5], missing, *data.urls[5:9]])
    assert caught.value.url == missing

    def refuse_one(request: Request) -> Fault | None:
        return Fault(status=403) if "00007" in request.path else None

    proxy.hook = refuse_one
    cache.evict(f"s3://{data.bucket}/")
    with pytest.raises(AccessDeniedError) as denied:
        cache.read_many(data.urls)
    assert denied.value.url == data.urls[7]
    assert cache.read(data.urls[6]) == data.data(data.urls[6])
