"""What the benchmarks of reading read: a cache that holds a batch of images, and a tar shard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ioaccel import Cache
from ioaccel.fs import IOAccelFileSystem
from ioaccel.testing.seaweed import SeaweedS3
from support.data import DataSet, payload
from support.filesystems import close_file_systems
from support.tars import tar

# A batch of JPEGs of ImageNet.
OBJECTS, SIZE = 64, 110_000
SAMPLES, SAMPLE_SIZE = 500, 2000


@dataclass(frozen=True)
class Warm:
    """A cache, its file system, and what it holds: ``data`` below ``prefix``, samples in ``shard``."""

    fs: IOAccelFileSystem
    data: DataSet
    prefix: str
    shard: str
    options: dict[str, Any]  # to reach the store

    @property
    def cache(self) -> Cache:
        return self.fs.cache


@contextmanager
def warm_cache(s3: SeaweedS3, bucket: str, directory: Path) -> Iterator[Warm]:
    """Fills ``bucket`` and a cache in ``directory``; closes the cache at the end."""
    data = DataSet.fill(s3, bucket, [SIZE] * OBJECTS)
    shard = tar([(f"{n:05d}.jpg", payload(f"sample {n}", SAMPLE_SIZE)) for n in range(SAMPLES)])
    s3.put_many(bucket, [("shard.tar", shard)])
    url = data.url("shard.tar")
    fs = IOAccelFileSystem("s3", s3.storage_options, cache_dir=directory, cache_size="100MB")
    try:
        fs.cache.read_many([*data.urls, url])
        assert sum(fs.cache.resident([*data.urls, url])) == data.nbytes + len(shard)
        yield Warm(fs, data, data.url("data/"), url, s3.storage_options)
    finally:
        close_file_systems()
