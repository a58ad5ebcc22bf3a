"""Sources: what can list, stat and get ranges of objects.

`resolve` runs in the client and says how to reach a store (`SourceSpec`); `open_source` runs where
the reading happens and imports obstore or fsspec only then.
"""

from __future__ import annotations

from ioaccel.errors import UnsupportedURLError
from ioaccel.sources.base import Fetched, ObjectInfo, RetryableError, Source
from ioaccel.sources.spec import SourceSpec, resolve
from ioaccel.sources.urls import PROCESS_LOCAL, canonical, split, split_object_url, split_prefix_url

__all__ = [
    "PROCESS_LOCAL",
    "Fetched",
    "ObjectInfo",
    "RetryableError",
    "Source",
    "SourceSpec",
    "canonical",
    "open_source",
    "resolve",
    "split",
    "split_object_url",
    "split_prefix_url",
]


def open_source(spec: SourceSpec, bucket: str) -> Source:
    """The source that ``spec`` describes, bound to ``bucket`` ("" for local files and fsspec).

    It makes no request. Raises ConfigError if the options make no sense to the store's library, and
    UnsupportedURLError if no library for the scheme is installed.
    """
    if spec.kind == "local":
        from ioaccel.sources.local import LocalSource

        return LocalSource()
    if spec.kind == "fsspec":
        from ioaccel.sources.filesystem import FilesystemSource

        return FilesystemSource(spec.scheme, spec.options)
    if spec.scheme in ("http", "https"):
        from ioaccel.sources.web import WebSource

        return WebSource(spec, bucket)
    if spec.kind == "object":
        from ioaccel.sources.objectstore import ObjectStoreSource

        return ObjectStoreSource(spec, bucket)
    raise UnsupportedURLError(f"no source is of kind {spec.kind!r}; is the engine older than the client?")
