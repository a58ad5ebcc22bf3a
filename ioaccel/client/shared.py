"""Caches that a whole process tree shares: one for the same settings, so one connection and one session."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ioaccel.client.cache import Cache, connect
from ioaccel.config import load

_lock = threading.Lock()
_caches: dict[str, Cache] = {}


@dataclass(frozen=True)
class Settings:
    """The arguments of `ioaccel.connect`."""

    cache_dir: Any = None
    cache_size: Any = None
    storage_options: Mapping[str, Any] | None = None
    consistency: str | None = None
    max_age: float | None = None
    timeout: float = 60.0

    def key(self) -> str:
        """The same for settings that mean the same cache, read in the same way. ConfigError as `connect`."""
        config = load(self.cache_dir, self.cache_size, self.storage_options, self.consistency, self.max_age)
        said = repr((config, self.timeout, config.storage_options))
        return hashlib.blake2b(said.encode()).hexdigest()  # the options hold secrets


def shared_cache(key: str, settings: Settings) -> Cache:
    """The cache of these settings, connected now unless it has been; ``key`` is ``settings.key()``."""
    cache = _caches.get(key)
    if cache is not None:
        return cache
    with _lock:
        cache = _caches.get(key)
        if cache is None:
            cache = _caches[key] = connect(**vars(settings))
        return cache


def connected(key: str) -> Cache | None:
    """The cache, if this process tree has connected it."""
    return _caches.get(key)


def adopt(key: str, cache: Cache) -> None:
    """Shares a cache that came from another process, unless there is one already."""
    with _lock:
        _caches.setdefault(key, cache)


def close_shared(key: str) -> None:
    """Hangs up; whoever asks for the cache again gets a new one, and a new session."""
    with _lock:
        cache = _caches.pop(key, None)
    if cache is not None:
        cache.close()


def _after_fork() -> None:
    global _lock  # noqa: PLW0603  # another thread of the parent may have held it
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
