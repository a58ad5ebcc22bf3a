"""What an instance is made from: a target, and settings that name a shared cache."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from fsspec.asyn import AsyncFileSystem, get_loop
from fsspec.implementations.chained import ChainedFileSystem

from ioaccel.client.cache import Cache
from ioaccel.client.reader import Reader
from ioaccel.client.shared import Settings, adopt, close_shared, connected, shared_cache
from ioaccel.errors import ConfigError
from ioaccel.fs.names import Names
from ioaccel.fs.readonly import ReadOnly
from ioaccel.sources.options.given import TUNING


class _Environment:
    """Where settings may come from besides the options: fsspec makes another instance when it changes."""

    def __get__(self, instance: object, owner: object) -> tuple[str | None, ...]:
        return tuple(map(os.environ.get, ("IOACCEL_CACHE_DIR", "IOACCEL_CACHE_SIZE", "IOACCEL_CONFIG")))


class CacheFileSystem(ReadOnly, ChainedFileSystem, AsyncFileSystem):  # type: ignore[misc]  # untyped
    """A target file system, and the cache that it is to be read through."""

    protocol = "ioaccel"
    mirror_sync_methods = False  # the synchronous methods need no event loop, so they survive a fork
    _strip_tokenize_options = ("fo",)
    _extra_tokenize_attributes = ("_environment",)
    _environment = _Environment()

    def __init__(
        self,
        target_protocol: str | None = None,
        target_options: Mapping[str, Any] | None = None,
        fs: Any = None,
        fo: str | None = None,  # noqa: ARG002  # the path in a chained URL; it comes with each call, too
        *,
        cache_dir: Any = None,
        cache_size: Any = None,
        consistency: str | None = None,
        max_age: float | None = None,
        timeout: float = 60.0,
        asynchronous: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(asynchronous=True, **kwargs)  # or it would start fsspec's thread
        self.asynchronous = asynchronous
        if unknown := sorted(kwargs.keys() - TUNING - {"loop"}):
            raise ConfigError(
                f"ioaccel:// knows no option {unknown[0]!r}; options of the store go into target_options, or "
                "below the name of its scheme if the URL is chained"
            )
        if fs is not None:
            target_protocol, target_options = _target_of(fs, target_protocol)
        self._names = Names(target_protocol)
        self._strip_protocol = self._names.strip  # a class method in fsspec, which knows of no target
        scheme = self._names.scheme
        options = {scheme: dict(target_options)} if scheme and target_options else target_options
        self._settings = Settings(cache_dir, cache_size, options or None, consistency, max_age, timeout)
        self._key = self._settings.key()

    @property
    def cache(self) -> Cache:
        """The cache, connected at its first use. Raises as `ioaccel.connect`."""
        return shared_cache(self._key, self._settings)

    @property
    def _reader(self) -> Reader:
        return self.cache._reader

    def close(self) -> None:
        """Hangs up, for all instances with these settings. The next use connects anew."""
        close_shared(self._key)

    def invalidate_cache(self, path: str | None = None) -> None:  # noqa: ARG002
        """Begins the session anew: what the store said before now, of any path, is asked again."""
        self._reader.begin_session()

    @property
    def loop(self) -> Any:
        """fsspec's event loop, for those who call the asynchronous methods from elsewhere."""
        return get_loop()

    def unstrip_protocol(self, name: str) -> str:
        """The chained URL of a name."""
        return f"ioaccel::{self._url(name)}"

    def _url(self, path: Any) -> str:
        return self._names.url(self._names.name(path))

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (type(self), self.storage_args, self.storage_options, connected(self._key))


def _target_of(fs: Any, protocol: str | None) -> tuple[str, dict[str, Any]]:
    """Protocol and options of a file system, from which the engine can make its own."""
    if protocol is not None:
        raise ConfigError("pass fs= or target_protocol=, not both")
    if fs.storage_args:
        raise ConfigError(
            f"fs= is a {type(fs).__name__} made with positional arguments, which the engine cannot be told; "
            "name them, or pass target_protocol and target_options"
        )
    return fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0], dict(fs.storage_options)


def _unpickled(
    cls: type[CacheFileSystem], args: Sequence[Any], options: Mapping[str, Any], cache: Cache | None
) -> CacheFileSystem:
    fs = cls(*args, **options)
    if cache is not None:
        adopt(fs._key, cache)
    return fs
