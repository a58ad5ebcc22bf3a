"""The default cache: the one that environment, ``ioaccel.toml`` or a running daemon name."""

from __future__ import annotations

import os
import threading

from ioaccel.client.cache import Cache, Url, connect
from ioaccel.client.file import BufferedObjectFile

_lock = threading.Lock()
_cache: Cache | None = None


def default_cache() -> Cache:
    """The default cache of this process tree, connected at the first call."""
    global _cache  # noqa: PLW0603  # one session for the process tree is the point
    with _lock:
        if _cache is None:
            _cache = connect()
        return _cache


def open(url: Url, mode: str = "rb") -> BufferedObjectFile:  # noqa: A001  # the public name
    """`Cache.open` of the default cache: IOACCEL_CACHE_DIR, IOACCEL_CACHE_SIZE, ``ioaccel.toml``."""
    return default_cache().open(url, mode)


def _after_fork() -> None:
    global _lock  # noqa: PLW0603  # another thread of the parent may have held it
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
