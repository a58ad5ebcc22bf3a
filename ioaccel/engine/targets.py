"""From the URLs of a request to what they name: a store's object, and how to reach it."""

from __future__ import annotations

import threading
from collections import defaultdict

import msgspec

from ioaccel import wire
from ioaccel._core._engine import block_key
from ioaccel.engine.item import Item
from ioaccel.engine.objects import Target
from ioaccel.errors import ConfigError, IOAccelError, UnsupportedURLError
from ioaccel.sources import PROCESS_LOCAL, Source, SourceSpec, open_source, split_object_url, split_prefix_url
from ioaccel.sources.governor import Governor
from ioaccel.sources.urls import OBJECT_SCHEMES, why_unaddressable


class NotForUs(Exception):
    """A source that only the client can read."""


class _Bucket(msgspec.Struct, frozen=True):
    """What all objects of one bucket share."""

    spec: SourceSpec
    source: Source
    governor: Governor


class Targets:
    """The sources and governors of all stores. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sources: dict[tuple[bytes, str], Source] = {}
        self.governors: defaultdict[bytes, Governor] = defaultdict(Governor)

    def items(
        self, extents: list[wire.Extent], sources: dict[str, SourceSpec]
    ) -> list[Item | wire.Uncached | wire.Failure]:
        """The extents, ready to be settled; those that cannot be say why."""
        items: list[Item | wire.Uncached | wire.Failure] = []
        buckets: dict[str, _Bucket] = {}
        for url, offset, length in extents:
            try:
                items.append(Item(self._target(url, sources, buckets), offset, length))
            except NotForUs as reason:
                items.append(wire.Uncached(str(reason)))
            except IOAccelError as error:
                items.append(wire.Failure.of(error))
        return items

    def _target(self, url: str, sources: dict[str, SourceSpec], buckets: dict[str, _Bucket]) -> Target:
        # Neighbours in a batch share their bucket: then 3 us a URL and not 16.
        end = url.find("/", url.find("://") + 3) + 1
        prefix, key = url[:end], url[end:]
        bucket = buckets.get(prefix)
        if bucket is None or not key or why_unaddressable(key):
            scheme, name, key = split_object_url(url)
            spec = sources[scheme]
            bucket = _Bucket(spec, self.source(spec, name), self.governors[spec.identity])
            if scheme in OBJECT_SCHEMES:
                buckets[prefix] = bucket
        identity = bucket.spec.identity
        return Target(url, key, block_key(identity, url), identity, bucket.source, bucket.governor)

    def source(self, spec: SourceSpec, bucket: str) -> Source:
        """The source of a bucket, opened once."""
        if spec.scheme in PROCESS_LOCAL:
            raise NotForUs(f"{spec.scheme}:// lives in the process that made it")
        with self._lock:
            source = self._sources.get((spec.identity, bucket))
            if source is None:
                try:
                    source = open_source(spec, bucket)
                except (ConfigError, UnsupportedURLError) as error:
                    if spec.kind == "fsspec":
                        # A file system that only the client has: registered there, or not importable here.
                        raise NotForUs(str(error)) from error
                    raise
                self._sources[spec.identity, bucket] = source
            return source

    def prefix(self, url: str, sources: dict[str, SourceSpec]) -> tuple[SourceSpec, Source, str]:
        """The source of a URL that names a directory or a whole bucket, and the key there."""
        scheme, bucket, key = split_prefix_url(url)
        return sources[scheme], self.source(sources[scheme], bucket), key
