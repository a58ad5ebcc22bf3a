"""Reads through ioaccel's own caches are served already: they are only taken note of."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ioaccel.client.cache import Cache
from ioaccel.intercept.scope import Read, Scope, current


def _note(scope: Scope, cache: Cache, url: Any, offset: int = 0, length: int | None = None) -> None:
    try:
        name = cache._reader.canonical(url)
        target = scope.target_of(cache._reader, name.partition("://")[0])
    except Exception:  # noqa: BLE001  # the read itself will say so
        return
    scope.reads.append(Read(target.store, name, offset, length))


def _noting(original: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
    @functools.wraps(original)
    def method(self: Cache, *args: Any, **kwargs: Any) -> Any:
        scope = current()
        if scope is not None and args:
            note(scope, self, *args, **kwargs)
        return original(self, *args, **kwargs)

    return method


def _note_many(scope: Scope, cache: Cache, extents: Any) -> None:
    if isinstance(extents, (list, tuple)):
        for extent in extents:
            _note(scope, cache, *(extent if isinstance(extent, (list, tuple)) else (extent,)))


def install() -> None:
    """Puts the shims in place."""
    if hasattr(Cache.read, "__wrapped__"):
        return
    Cache.read = _noting(Cache.read, _note)  # type: ignore[method-assign]
    Cache.open = _noting(Cache.open, _note)  # type: ignore[method-assign]
    Cache.read_many = _noting(Cache.read_many, _note_many)  # type: ignore[method-assign]
