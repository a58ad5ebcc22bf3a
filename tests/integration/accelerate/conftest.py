"""Objects behind a proxy that counts, and caches of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import DataSet
from support.accelerate import COUNT, Options

import ioaccel
from ioaccel import Cache
from ioaccel.testing.countproxy import CountingProxy
from ioaccel.testing.seaweed import SeaweedS3


@pytest.fixture(scope="session")
def data(s3: SeaweedS3) -> DataSet:
    s3.create_bucket("torch-accelerate")
    return DataSet.fill(s3, "torch-accelerate", [1000 * n + 1 for n in range(COUNT)])


@pytest.fixture(scope="module")
def proxy(s3: SeaweedS3) -> Iterator[CountingProxy]:
    with CountingProxy(s3.endpoint) as proxy:
        yield proxy


@pytest.fixture
def options(s3: SeaweedS3, proxy: CountingProxy) -> Options:
    proxy.reset()
    return s3.storage_options | {"endpoint_url": proxy.endpoint}


@pytest.fixture
def cache(tmp_path: Path, options: Options) -> Iterator[Cache]:
    with ioaccel.connect(tmp_path / "cache", "50MB", options) as cache:
        yield cache


@pytest.fixture(scope="module")
def any_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cache]:
    """For tests that do not read."""
    with ioaccel.connect(tmp_path_factory.mktemp("any"), "8MB") as cache:
        yield cache
