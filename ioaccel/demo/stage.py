"""Where the objects are: what both runs read, and how they reach it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ioaccel.demo.images import crops
from ioaccel.demo.latency import distant
from ioaccel.demo.readers import LARGEST
from ioaccel.errors import ConfigError

if TYPE_CHECKING:
    from ioaccel import Cache
    from ioaccel.demo.report import Report

BUCKET = "photographs"

MAX_CLASSES = 1000
"""Folders beyond these many share classes, so that the model stays small."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The objects of a run."""

    urls: Sequence[str]
    size: int
    """Bytes of all objects together."""

    storage_options: Mapping[str, object] | None
    store: str
    """The store in words, as it is printed and stands in the picture."""

    @property
    def labels(self) -> list[int]:
        """The class of each object: its folder, as a number below ``classes``."""
        folders = [url.rsplit("/", 2)[-2] for url in self.urls]
        numbers = {folder: number for number, folder in enumerate(sorted(set(folders)))}
        return [numbers[folder] % MAX_CLASSES for folder in folders]

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return max(self.labels) + 1


@contextmanager
def photographs(samples: int, *, latency_ms: float, report: Report) -> Iterator[Stage]:
    """Start a real S3 server on this machine and put photographs in it; stop it at the end."""
    from ioaccel.testing.seaweed import SeaweedS3

    with ExitStack() as stack:
        with report.task("Starting SeaweedFS, a real S3 server"):
            server = stack.enter_context(SeaweedS3())
            server.create_bucket(BUCKET)
        keys: list[str] = []
        size = 0

        def counted() -> Iterator[tuple[str, bytes]]:
            nonlocal size
            for key, jpeg in crops(samples):
                keys.append(key)
                size += len(jpeg)
                yield key, jpeg
                task.advance(1)

        with report.task(f"Cutting and uploading {samples:,} JPEGs", total=samples) as task:
            server.put_many(BUCKET, counted())
        options, store = dict(server.storage_options), "SeaweedFS (S3) on this machine"
        if latency_ms > 0:
            address = stack.enter_context(distant(urlsplit(server.endpoint).netloc, seconds=latency_ms / 1e3))
            options["endpoint_url"] = f"http://{address}"
            store += f", first byte after {latency_ms:g} ms"
        yield Stage([f"s3://{BUCKET}/{key}" for key in keys], size, options, store)


def objects(url: str, samples: int, *, cache: Cache, storage_options: Mapping[str, object] | None) -> Stage:
    """At most ``samples`` of the user's own objects below ``url``, picked evenly from the listing."""
    listing = cache.manifest(url)
    prefix = (listing.schema.metadata or {})[b"ioaccel.root"].decode()
    columns = (listing.column("key").to_pylist(), listing.column("size").to_pylist())
    found = [(prefix + key, size) for key, size in zip(*columns, strict=True) if 0 < size <= LARGEST]
    if not found:
        raise ConfigError(f"{url} holds no object of 1 byte to {LARGEST >> 20} MiB; name a prefix that does")
    count = min(samples, len(found))
    picked = [found[number * len(found) // count] for number in range(count)]
    store = url if count == len(found) else f"{url} ({count:,} of {len(found):,} objects)"
    return Stage([each for each, _ in picked], sum(size for _, size in picked), storage_options, store)
