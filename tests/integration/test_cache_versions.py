"""Objects that change: when a reader sees the new version, and that it never sees a mixture."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import payload

import ioaccel
from ioaccel import Cache, ObjectChangedError, ObjectNotFoundError
from ioaccel.testing.countproxy import CountingProxy, Fault, Request
from ioaccel.testing.seaweed import SeaweedS3

MIB = 1 << 20


@pytest.fixture
def proxy(s3: SeaweedS3) -> Iterator[CountingProxy]:
    with CountingProxy(s3.endpoint) as proxy:
        yield proxy


class Store:
    """One object, ``x``, of which there are versions."""

    def __init__(self, s3: SeaweedS3, proxy: CountingProxy, bucket: str, directory: Path) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._directory = directory
        self._options = {**s3.storage_options, "endpoint_url": proxy.endpoint}
        self.url = f"s3://{bucket}/dir/x"

    def put(self, version: int, size: int = 1000) -> bytes:
        data = payload("x", size, version)
        self._s3.put(self._bucket, "dir/x", data)
        return data

    def delete(self) -> None:
        self._s3.delete(self._bucket, "dir/x")

    def connect(self, cache_size: str = "100MB", **settings: object) -> Cache:
        return ioaccel.connect(self._directory, cache_size, self._options, **settings)  # type: ignore[arg-type]


@pytest.fixture
def store(s3: SeaweedS3, proxy: CountingProxy, bucket: str, tmp_path: Path) -> Store:
    return Store(s3, proxy, bucket, tmp_path)


def test_a_session_keeps_its_version_and_the_next_one_sees_the_new(store: Store) -> None:
    old = store.put(1)
    with store.connect() as first:
        assert first.read(store.url) == old
        new = store.put(2, size=1500)
        assert first.read(store.url) == old
        with store.connect() as second:
            assert second.stat(store.url).size == 1500
            assert second.read(store.url) == new
            assert second.read_many([store.url] * 2)[1] == new
        assert first.read(store.url) == new  # what one session has learned, all are told


def test_the_same_size_is_not_the_same_version(store: Store) -> None:
    store.put(1)
    with store.connect() as cache:
        cache.read(store.url)
    new = store.put(2)
    with store.connect() as cache:
        assert cache.read(store.url) == new
        assert cache.status()["cached_bytes"] == len(new)


def test_neighbours_are_checked_together(
    store: Store, s3: SeaweedS3, bucket: str, proxy: CountingProxy
) -> None:
    s3.put_many(bucket, ((f"many/{n:03}", payload(str(n), 100)) for n in range(300)))
    urls = [f"s3://{bucket}/many/{n:03}" for n in range(300)]
    with store.connect() as cache:
        cache.read_many(urls)
    s3.put(bucket, "many/123", b"new")
    s3.delete(bucket, "many/200")
    proxy.reset()
    with store.connect() as cache:
        batch = cache.read_many(urls[:200])
        assert proxy.reset().requests.total() < 20
        assert [bytes(v) for v in batch] == [b"new" if n == 123 else payload(str(n), 100) for n in range(200)]
        with pytest.raises(ObjectNotFoundError) as caught:
            cache.read_many(urls)
        assert caught.value.url == urls[200]


@pytest.mark.parametrize("prefix", ["alone/", ""])
def test_objects_read_one_by_one_are_soon_checked_together(
    store: Store, s3: SeaweedS3, bucket: str, proxy: CountingProxy, prefix: str
) -> None:
    s3.put_many(bucket, ((f"{prefix}{n:03}", payload(str(n), 100)) for n in range(200)))
    urls = [f"s3://{bucket}/{prefix}{n:03}" for n in range(200)]
    with store.connect() as cache:
        cache.read_many(urls)
    s3.put(bucket, f"{prefix}123", b"new")
    proxy.hook = lambda request: Fault(delay=0.01)
    proxy.reset()
    with store.connect() as cache:
        assert [cache.read(url) for url in urls] == [
            b"new" if n == 123 else payload(str(n), 100) for n in range(200)
        ]
    assert proxy.reset().requests.total() < 50


def test_an_object_that_vanishes(store: Store) -> None:
    old = store.put(1)
    with store.connect() as cache:
        assert cache.read(store.url) == old
        store.delete()
        assert cache.read(store.url) == old
        with store.connect() as later, pytest.raises(ObjectNotFoundError):
            later.read(store.url)
        with store.connect(consistency="immutable") as trusting:
            assert trusting.read(store.url) == old
        assert cache.evict(store.url).bytes == len(old)
        with pytest.raises(ObjectNotFoundError):
            cache.read(store.url)


def test_an_object_that_comes_back(store: Store) -> None:
    with store.connect() as cache:
        for read in (cache.read, cache.open, cache.stat):
            with pytest.raises(ObjectNotFoundError):
                read(store.url)
        data = store.put(1)
        assert cache.read(store.url) == data


def test_max_age(store: Store) -> None:
    old = store.put(1)
    with store.connect(max_age=3600) as cache:
        assert cache.read(store.url) == old
        new = store.put(2)
        with store.connect(max_age=3600) as patient:
            assert patient.read(store.url) == old
        with store.connect(max_age=0) as impatient:
            assert impatient.read(store.url) == new
            newest = store.put(3)
            assert impatient.read(store.url) == newest


def change_at_request(store: Store, number: int, size: int) -> object:
    """A hook that replaces the object when the GET of this number arrives, and only then."""
    count = itertools.count(1)
    done = threading.Event()

    def hook(request: Request) -> None:
        if request.method == "GET" and next(count) == number:
            store.put(2, size)
            done.set()
        elif not done.is_set():
            done.wait(0.2)  # let requests that came together come after the change

    return hook


@pytest.mark.parametrize(("number", "new_size"), [(1, 5 * MIB), (2, 24 * MIB + 1), (4, 24 * MIB)])
def test_a_read_of_many_blocks_sees_one_version(
    store: Store, proxy: CountingProxy, number: int, new_size: int
) -> None:
    old, new = store.put(1, 24 * MIB), payload("x", new_size, 2)
    with store.connect() as cache:
        proxy.hook = change_at_request(store, number, new_size)  # type: ignore[assignment]
        assert cache.read(store.url) in (old, new)
        proxy.hook = None
        assert cache.read(store.url) in (old, new)
        assert cache.read(store.url, 4 * MIB + 5) in (old[4 * MIB + 5 :], new[4 * MIB + 5 :])


@pytest.mark.parametrize("number", [11])
def test_a_read_that_passes_through_in_pieces_sees_one_version(
    store: Store, proxy: CountingProxy, number: int
) -> None:
    old, new = store.put(1, 70 * MIB), payload("x", 70 * MIB, 2)
    with store.connect("10MB") as cache:
        proxy.hook = change_at_request(store, number, 70 * MIB)  # type: ignore[assignment]
        with contextlib.suppress(ObjectChangedError):
            assert cache.read(store.url) in (old, new)


@pytest.mark.parametrize("new_size", [80 * MIB, 50 * MIB, 100])
def test_a_large_object_that_changes_before_its_turn(
    s3: SeaweedS3, store: Store, proxy: CountingProxy, new_size: int
) -> None:
    """The engine has told its size, and one that came before it took a while."""
    old, new = store.put(1, 70 * MIB), payload("x", new_size, 2)
    url, first = f"{store.url}-first", payload("y", 70 * MIB, 1)
    s3.put(url.split("/")[2], "dir/x-first", first)
    done = threading.Event()

    def change(request: Request) -> None:
        if request.path.endswith("x-first") and request.headers.get("range", "").startswith(
            f"bytes={68 * MIB}-"
        ):
            store.put(2, new_size)
            done.set()

    with store.connect("10MB") as cache:
        cache.read(store.url, 0, 9 * MIB)  # it is full from now on
        proxy.hook = change
        try:
            found, changed = cache.read_many([url, store.url])
        except ObjectChangedError:
            found, changed = cache.read_many([url, store.url])
        assert done.is_set()
        assert found == first
        assert changed in (old, new)


def test_an_object_that_keeps_changing(store: Store, proxy: CountingProxy) -> None:
    size, versions, changing = 5 * MIB, itertools.count(2), threading.Lock()
    store.put(1, size)

    def change(request: Request) -> None:
        if request.method == "GET":
            with changing:
                store.put(next(versions), size)

    with store.connect() as cache:
        proxy.hook = change
        with pytest.raises(ObjectChangedError, match="kept changing") as caught:
            cache.read(store.url)
        assert caught.value.url == store.url
        proxy.hook = None
        with changing:
            last = next(versions) - 1
        assert cache.read(store.url) == payload("x", size, last)


def test_an_open_file_keeps_its_version_or_fails(store: Store) -> None:
    old = store.put(1, 12 * MIB)
    with store.connect() as cache, cache.open(store.url) as file:
        assert file.read(5 * MIB) == old[: 5 * MIB]
        store.put(2, 12 * MIB)
        with pytest.raises(ObjectChangedError) as caught:
            file.read()
        assert caught.value.url == store.url
        with cache.open(store.url) as again:
            assert again.read() == payload("x", 12 * MIB, 2)
        assert file.seek(0) == 0
        with pytest.raises(ObjectChangedError):
            file.read()
