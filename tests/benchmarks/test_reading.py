"""Each way to read what is cached."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from support import payload
from support import torch_data as td
from support.warm import OBJECTS, SAMPLE_SIZE, SAMPLES, Warm, warm_cache

from ioaccel.formats.objects import object_list
from ioaccel.formats.tar import tar_index
from ioaccel.testing.seaweed import SeaweedS3
from ioaccel.torch import Loader, ObjectDataset, accelerate

BUCKET = "benchmarks"


@pytest.fixture(scope="module")
def warm(s3: SeaweedS3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    s3.create_bucket(BUCKET)
    with warm_cache(s3, BUCKET, tmp_path_factory.mktemp("cache")) as made:
        yield made


@pytest.fixture
def first(warm: Warm) -> tuple[str, bytes]:
    """An object, and its bytes."""
    url = warm.data.urls[0]
    return url, warm.data.data(url)


def test_read_4k(benchmark: BenchmarkFixture, warm: Warm, first: tuple[str, bytes]) -> None:
    url, data = first
    assert benchmark(warm.cache.read, url, 8192, 4096) == data[8192:12288]


def test_read_an_object(benchmark: BenchmarkFixture, warm: Warm, first: tuple[str, bytes]) -> None:
    url, data = first
    assert benchmark(warm.cache.read, url) == data


def test_read_many(benchmark: BenchmarkFixture, warm: Warm) -> None:
    batch = benchmark(warm.cache.read_many, warm.data.urls)
    assert [bytes(view) for view in batch] == [warm.data.data(url) for url in warm.data.urls]


def test_open_and_read(benchmark: BenchmarkFixture, warm: Warm, first: tuple[str, bytes]) -> None:
    url, data = first

    def work() -> bytes:
        with warm.cache.open(url) as file:
            return file.read()

    assert benchmark(work) == data


def test_fsspec_open_and_read(benchmark: BenchmarkFixture, warm: Warm, first: tuple[str, bytes]) -> None:
    url, data = first

    def work() -> bytes:
        with warm.fs.open(url) as file:
            return bytes(file.read())

    assert benchmark(work) == data


def test_fsspec_cat_file(benchmark: BenchmarkFixture, warm: Warm, first: tuple[str, bytes]) -> None:
    url, data = first
    assert benchmark(warm.fs.cat_file, url) == data


def test_an_accelerated_sample(benchmark: BenchmarkFixture, warm: Warm) -> None:
    """A hit as an unmodified data set has it: fsspec.open, read, close."""
    dataset = accelerate(td.Objects(warm.data.urls, warm.options), cache=warm.cache)
    reads = warm.cache.status()["store_requests"]
    assert benchmark(dataset.__getitem__, 1) == (1, warm.data.data(warm.data.urls[1]))
    assert warm.cache.status()["store_requests"] == reads


def test_an_epoch_of_the_loader(benchmark: BenchmarkFixture, warm: Warm) -> None:
    loader = Loader(ObjectDataset(warm.prefix, cache=warm.cache), batch_size=16)

    def work() -> int:
        return sum(batch.buffer.numel() for batch in loader)

    assert benchmark(work) == warm.data.nbytes


def test_prefetch_of_what_is_there(benchmark: BenchmarkFixture, warm: Warm) -> None:
    found = benchmark(warm.cache.prefetch, warm.data.urls, wait=True)
    assert found is not None
    assert found.stored == OBJECTS


# ---- where things lie ---------------------------------------------------------------------------


def test_manifest(benchmark: BenchmarkFixture, warm: Warm) -> None:
    assert benchmark(warm.cache.manifest, warm.prefix).num_rows == OBJECTS


def test_open_an_object_list(benchmark: BenchmarkFixture, warm: Warm) -> None:
    assert len(benchmark(object_list, warm.cache, warm.prefix)) == OBJECTS


def test_urls_of_a_batch(benchmark: BenchmarkFixture, warm: Warm) -> None:
    objects = object_list(warm.cache, warm.prefix)
    assert benchmark(objects.urls, range(OBJECTS)) == warm.data.urls


def test_open_a_tar_index(benchmark: BenchmarkFixture, warm: Warm) -> None:
    assert len(benchmark(tar_index, warm.cache, warm.shard)) == SAMPLES


def test_tar_index_lookup(benchmark: BenchmarkFixture, warm: Warm) -> None:
    index = tar_index(warm.cache, warm.shard)
    (extent,) = benchmark(index.extents, 321)
    assert extent[0] == warm.shard
    assert extent[2] == SAMPLE_SIZE
    assert warm.cache.read(*extent) == payload("sample 321", SAMPLE_SIZE)
