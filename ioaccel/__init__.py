"""A node-local cache between training jobs and object stores.

    import ioaccel
    cache = ioaccel.connect(cache_dir="/nvme/ioaccel", cache_size="100GB")
    cache.read("s3://bucket/key")
    cache.read_many(["s3://bucket/a", ("s3://bucket/b", 0, 4096)])
    cache.open("s3://bucket/key")

See `connect` for the settings and `Cache` for all that a cache can do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ioaccel.errors import (
    AccessDeniedError,
    CacheBusyError,
    CacheClosedError,
    CacheDirectoryError,
    CacheFormatError,
    ConfigError,
    EngineError,
    FormatError,
    IOAccelError,
    ObjectChangedError,
    ObjectNotFoundError,
    RangeError,
    ReadOnlyError,
    StoreError,
    StoreTimeoutError,
    UnsupportedURLError,
)

if TYPE_CHECKING:
    from ioaccel.client.batch import Batch
    from ioaccel.client.cache import Cache, Evicted, ObjectInfo, Prefetched, Verified, connect
    from ioaccel.client.default import open  # noqa: A004  # the public name

__version__ = "0.1.0"

# Imported when they are first used: the engine and the command line need none of them to start.
_LAZY = {
    "Batch": "ioaccel.client.batch",
    "Cache": "ioaccel.client.cache",
    "Evicted": "ioaccel.client.cache",
    "ObjectInfo": "ioaccel.client.cache",
    "Prefetched": "ioaccel.client.cache",
    "Verified": "ioaccel.client.cache",
    "connect": "ioaccel.client.cache",
    "open": "ioaccel.client.default",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'ioaccel' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


__all__ = [
    "AccessDeniedError",
    "Batch",
    "Cache",
    "CacheBusyError",
    "CacheClosedError",
    "CacheDirectoryError",
    "CacheFormatError",
    "ConfigError",
    "EngineError",
    "Evicted",
    "FormatError",
    "IOAccelError",
    "ObjectChangedError",
    "ObjectInfo",
    "ObjectNotFoundError",
    "Prefetched",
    "RangeError",
    "ReadOnlyError",
    "StoreError",
    "StoreTimeoutError",
    "UnsupportedURLError",
    "Verified",
    "__version__",
    "connect",
    "open",
]
