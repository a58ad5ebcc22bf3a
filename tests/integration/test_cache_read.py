"""Reading: whatever is asked for, in whatever way, the bytes are the object's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import DataSet

import ioaccel
from ioaccel import Cache, ConfigError, ObjectNotFoundError, RangeError, UnsupportedURLError
from ioaccel.testing.seaweed import SeaweedS3

MIB = 1 << 20
BLOCK = 4 * MIB
SIZES = {"empty": 0, "one": 1, "under": BLOCK - 1, "block": BLOCK, "over": BLOCK + 1, "many": 20 * MIB}


@pytest.fixture(scope="module")
def data(s3: SeaweedS3) -> DataSet:
    s3.create_bucket("cache-read")
    return DataSet.fill(s3, "cache-read", SIZES)


@pytest.fixture(scope="module")
def cache(s3: SeaweedS3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cache]:
    with ioaccel.connect(tmp_path_factory.mktemp("cache"), "100MB", s3.storage_options) as cache:
        yield cache


@pytest.fixture
def cold(s3: SeaweedS3, cache: Cache, data: DataSet) -> Cache:
    """The cache, without anything of the data in it."""
    cache.evict(f"s3://{data.bucket}/")
    return cache


@pytest.mark.parametrize("key", SIZES)
def test_whole_objects_cold_and_warm(cold: Cache, data: DataSet, key: str) -> None:
    before = cold.status()
    assert cold.read(data.url(key)) == data.data(key)
    after = cold.status()
    assert after["miss_bytes"] - before["miss_bytes"] == SIZES[key]
    assert after["hits"] == before["hits"]
    assert cold.read(data.url(key)) == data.data(key)
    assert bytes(cold.read_many([data.url(key)])[0]) == data.data(key)
    warm = cold.status()
    assert warm["hit_bytes"] - after["hit_bytes"] == 2 * SIZES[key]
    assert warm["store_bytes"] == after["store_bytes"]


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("key", SIZES)
def test_ranges_around_every_edge(cold: Cache, data: DataSet, key: str, warm: bool) -> None:
    size, content, url = SIZES[key], data.data(key), data.url(key)
    if warm:
        cold.prefetch([url], wait=True)
    edges = {0, 1, size // 2, size - 1, size, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, size - BLOCK}
    offsets = sorted(at for at in edges if 0 <= at <= size)
    random.Random(size).shuffle(offsets)
    for offset in offsets:
        for length in (None, 0, 1, 2, 1000, BLOCK, BLOCK + 1, size - offset):
            if length is not None and offset + length > size:
                with pytest.raises(RangeError) as caught:
                    cold.read(url, offset, length)
                assert (caught.value.url, caught.value.range) == (url, (offset, offset + length))
            else:
                stop = size if length is None else offset + length
                assert cold.read(url, offset, length) == content[offset:stop]


@pytest.mark.parametrize("key", SIZES)
def test_the_first_read_of_an_object_starts_at_its_end(
    s3: SeaweedS3, tmp_path: Path, data: DataSet, key: str
) -> None:
    with ioaccel.connect(tmp_path, "10MB", s3.storage_options) as cache:
        assert cache.read(data.url(key), SIZES[key]) == b""
        with pytest.raises(RangeError):
            cache.read(data.url(key), SIZES[key] + 1)
        with pytest.raises(RangeError):
            cache.read(data.url(key), SIZES[key] + 100 * MIB, 1)


def test_random_ranges_of_a_large_object(cold: Cache, data: DataSet) -> None:
    content, draw = data.data("many"), random.Random(5)
    extents = []
    for _ in range(80):
        offset = draw.randrange(len(content))
        extents.append((data.url("many"), offset, draw.randrange(min(len(content) - offset, 6 * MIB) + 1)))
    for batch in (extents[:1], extents[1:30], extents[30:]):
        for (_, offset, length), view in zip(batch, cold.read_many(batch), strict=True):
            assert bytes(view) == content[offset : offset + length]


def test_a_batch_of_5000(cold: Cache, s3: SeaweedS3, bucket: str) -> None:
    small = DataSet.fill(s3, bucket, [n % 700 for n in range(500)])
    urls = [url for seed in range(10) for url in small.shuffled(seed)]
    want = {url: small.data(url) for url in small.urls}
    before = cold.status()
    for _ in range(2):
        batch = cold.read_many(urls)
        assert len(batch) == 5000
        assert all(bytes(view) == want[url] for view, url in zip(batch, urls, strict=True))
    after = cold.status()
    hedged = after["store_hedged"] - before["store_hedged"]
    assert after["store_bytes"] - before["store_bytes"] <= small.nbytes + 700 * hedged


def test_cached_and_uncached_duplicates_and_ranges_in_one_batch(cold: Cache, data: DataSet) -> None:
    cold.read(data.url("over"))
    names = ["one", "over", "many", "over", "empty", "one", "many", "block", "empty"]
    extents = [*map(data.url, names), (data.url("many"), BLOCK - 2, 4), (data.url("over"), BLOCK, None)]
    want = [*map(data.data, names), data.data("many")[BLOCK - 2 : BLOCK + 2], data.data("over")[BLOCK:]]
    assert [bytes(view) for view in cold.read_many(extents)] == want
    assert cold.status()["store_bytes"] > 0


def test_what_may_be_an_extent(cold: Cache, data: DataSet, tmp_path: Path) -> None:
    (tmp_path / "local file").write_bytes(b"0123456789")
    path = tmp_path / "local file"
    url = data.url("many")
    want = data.data("many")
    for extents in (
        [url, (url, 0, None), [url, 0, None], ("s3a" + url[2:], 0, None)],
        (url, (url, 0, None)),
        (each for each in [url]),
        {url: 1}.keys(),
    ):
        assert all(bytes(view) == want for view in cold.read_many(extents))
    assert [bytes(v) for v in cold.read_many([path, (path, 3, 4), str(path)])] == [
        b"0123456789",
        b"3456",
        b"0123456789",
    ]
    assert cold.read(path, 8) == b"89"
    assert len(cold.read_many([])) == 0
    assert cold.read_many(iter([])).nbytes == 0


@pytest.mark.parametrize(
    "extent", [("s3://b/k", -1, 3), ("s3://b/k", 0, -3), ("s3://b/k", 0), ("s3://b/k",), ()]
)
def test_what_may_not(cache: Cache, extent: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match=r"extent|negative"):
        cache.read_many([extent])  # type: ignore[list-item]


def test_a_url_that_names_nothing(cache: Cache, data: DataSet) -> None:
    with pytest.raises(ConfigError):
        cache.read(data.url("one"), -1)
    for url in ("s3://", "s3://bucket", "s3://bucket/", "s3://bucket/a//b", "ioaccel://x"):
        with pytest.raises(UnsupportedURLError):
            cache.read(url)
    for url in (data.url("nothing"), "s3://no-such-bucket/key", data.url("one/below")):
        with pytest.raises(ObjectNotFoundError) as caught:
            cache.read(url)
        assert caught.value.url == url
        with pytest.raises(FileNotFoundError):
            cache.read_many([data.url("one"), url])


def test_odd_keys(cache: Cache, s3: SeaweedS3, bucket: str) -> None:
    keys = ["a b", "a%20b", "100%", "a+b&c=d?e#f", "dîr/ключ 漢字/🎉.bin", "'\"", "/".join(["x" * 200] * 4)]
    odd = DataSet.fill(s3, bucket, {key: 1000 + n for n, key in enumerate(keys)})
    for _ in range(2):
        assert [bytes(view) for view in cache.read_many(odd.urls)] == [odd.data(url) for url in odd.urls]
    for key, url in zip(keys, odd.urls, strict=True):
        assert cache.read(url) == odd.data(key)
        assert cache.stat(url).size == odd.sizes[key]
        assert cache.resident([url]) == [odd.sizes[key]]
    assert sorted(cache.manifest(f"s3://{bucket}/")["key"].to_pylist()) == sorted(keys)
    for key, url in zip(keys, odd.urls, strict=True):
        assert cache.evict(url).bytes == odd.sizes[key]


def test_an_empty_object_that_was_listed_first_is_a_hit_from_its_second_read_on(
    s3: SeaweedS3, tmp_path: Path
) -> None:
    bucket = "cache-read-empty"
    s3.create_bucket(bucket)
    s3.put(bucket, "d/empty", b"")
    for session in range(2):
        with ioaccel.connect(tmp_path, "10MB", s3.storage_options) as cache:
            cache.manifest(f"s3://{bucket}/d/", refresh=True)
            assert cache.read(f"s3://{bucket}/d/empty") == b""
            assert cache._reader.hit(f"s3://{bucket}/d/empty", 0, None) == b"", session
