"""Reads through ioaccel's own caches are served already: they are only taken note of."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

from ioaccel.client.cache import Cache
from ioaccel.client.file import BUFFER_SIZE, BufferedObjectFile
from ioaccel.intercept.reads import Read
from ioaccel.intercept.scope import WHOLE_BYTES, Scope, current
from ioaccel.intercept.served import RangesFile


def _note(scope: Scope, cache: Cache, url: Any, offset: int = 0, length: int | None = None) -> None:
    try:
        name = cache._reader.canonical(url)
        target = scope.target_of(cache._reader, name.partition("://")[0])
    except Exception:  # noqa: BLE001  # the read itself will say so
        return
    scope.reads.append(Read(target.store, name, offset, length))


def _note_many(scope: Scope, cache: Cache, extents: Any) -> None:
    if isinstance(extents, (list, tuple)):  # an iterator is not ours to draw from
        for extent in extents:
            _note(scope, cache, *(extent if isinstance(extent, (list, tuple)) else (extent,)))


def _noting(original: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
    @functools.wraps(original)
    def method(self: Cache, *args: Any, **kwargs: Any) -> Any:
        scope = current()
        if scope is not None:
            with contextlib.suppress(TypeError):  # the method itself will say it
                note(scope, self, *args, **kwargs)
        return original(self, *args, **kwargs)

    return method


def _opening(original: Callable[..., BufferedObjectFile]) -> Callable[..., BufferedObjectFile]:
    """A file says itself what of it is read."""

    @functools.wraps(original)
    def method(self: Cache, *args: Any, **kwargs: Any) -> BufferedObjectFile:
        scope = current()
        file = original(self, *args, **kwargs)
        if scope is None:
            return file
        raw = file.raw
        if raw.size <= WHOLE_BYTES:
            _note(scope, self, raw.name)
            return file
        target = scope.target_of(self._reader, raw.name.partition("://")[0])
        return BufferedObjectFile(RangesFile(target, raw.name, raw.name, raw.size, raw._version), BUFFER_SIZE)

    return method


def install() -> None:
    """Puts the shims in place."""
    if hasattr(Cache.read, "__wrapped__"):
        return
    Cache.read = _noting(Cache.read, _note)  # type: ignore[method-assign]
    Cache.open = _opening(Cache.open)  # type: ignore[method-assign]
    Cache.read_many = _noting(Cache.read_many, _note_many)  # type: ignore[method-assign]
