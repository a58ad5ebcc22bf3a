"""What differs between the two runs: how the bytes of a URL are fetched. (And the loader is accelerated.)

A reader is a picklable callable, ``read(url) -> bytes``, that the data set calls in the worker
processes. ``store_bytes()`` is asked in the training process; only differences mean something.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from ioaccel.errors import StoreError
from ioaccel.sources import RetryableError, SourceSpec, open_source, resolve, split_object_url
from ioaccel.sources.base import CHECK_THE_STORE

if TYPE_CHECKING:
    from ioaccel import Cache

LARGEST = 16 * 1024 * 1024
"""Bytes of the largest object that is read: the demo reads objects whole, one a sample."""

PAUSES_S = (0.1, 0.4, 1.6, 6.4)
"""Between attempts, in seconds: what the clients of object stores do when one fails."""


class Reader(Protocol):
    """What a run reads with."""

    def __call__(self, url: str) -> bytes:
        """The bytes of one object."""

    def store_bytes(self) -> int:
        """Bytes taken from the store so far."""


class DirectReader:
    """One GET a sample, straight from the store: what a data set does today.

    Bytes are counted as they arrive, in a counter that the workers share. The client is made on
    first use in each process, because obstore does not survive a fork.
    """

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None) -> None:
        """``url`` is one of the objects to come; they are all in its bucket."""
        scheme, self._bucket, _ = split_object_url(url)
        self._spec = resolve(scheme, storage_options)
        self._count = multiprocessing.Value("q", 0)
        self._get: Callable[[str], bytes] | None = None
        self._get_pid = 0

    def __call__(self, url: str) -> bytes:
        if self._get is None or self._get_pid != os.getpid():
            self._get, self._get_pid = _open(self._spec, self._bucket), os.getpid()
        data = self._get(url)
        with self._count.get_lock():
            self._count.value += len(data)
        return data

    def store_bytes(self) -> int:
        """Bytes of all objects read so far, by all processes."""
        return int(self._count.value)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_get": None}


class CachedReader:
    """The same through ioaccel. Bytes are counted by the cache's engine, where it asks the store."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def __call__(self, url: str) -> bytes:
        return self._cache.read(url)

    def store_bytes(self) -> int:
        """Bytes that the engine has taken from the store since it started, for all its clients."""
        return int(self._cache.status()["store_bytes"])


def _open(spec: SourceSpec, bucket: str) -> Callable[[str], bytes]:
    """A function from a URL to the object's bytes: bare obstore, or fsspec for what obstore does not read."""
    if spec.kind != "object":
        return _fsspec_get(spec)
    source = open_source(spec, bucket)

    def get(url: str) -> bytes:
        key = split_object_url(url)[2]
        begun = time.monotonic()
        for attempt, pause in enumerate((*PAUSES_S, None), 1):
            try:
                return bytes(source.get(key, 0, LARGEST).data)
            except RetryableError as error:
                if pause is None:
                    raise StoreError(
                        f"{url}: {error}; {CHECK_THE_STORE}",
                        url=url,
                        attempts=attempt,
                        elapsed=time.monotonic() - begun,
                    ) from error
                time.sleep(pause)
        raise AssertionError

    return get


def _fsspec_get(spec: SourceSpec) -> Callable[[str], bytes]:
    import fsspec

    filesystem = fsspec.filesystem(spec.scheme, **spec.options)
    return lambda url: bytes(filesystem.cat_file(url))
