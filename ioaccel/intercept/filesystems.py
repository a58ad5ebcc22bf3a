"""fsspec: the methods of every file system that read, and ``fsspec.open``."""

from __future__ import annotations

import functools
import os
from typing import Any

import fsspec
import fsspec.asyn
import fsspec.core
from fsspec import AbstractFileSystem
from fsspec.compression import compr
from fsspec.core import OpenFile, get_compression, has_magic

from ioaccel.intercept.scope import Scope, Target, current

# File systems whose files are in this process or on this machine, or which read through another one, that
# is met here itself.
_NOT_STORES = frozenset(
    {"abstract", "archive", "async_wrapper", "blockcache", "cached", "data", "dir", "file", "filecache"}
    | {"generic", "git", "ioaccel", "jlab", "jupyter", "libarchive", "local", "memory", "reference"}
    | {"simplecache", "tar", "zip"}
)

_original_open = AbstractFileSystem.open
_original_sync = fsspec.asyn.sync
_original_fsspec_open = fsspec.core.open


def _target(scope: Scope, fs: Any) -> Target | None:
    """The store that a file system reads, or None if the engine could not reach it in the same way."""
    protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    if protocol in _NOT_STORES:
        return None
    known: tuple[Scope, Target | None] | None = fs.__dict__.get("_ioaccel_target")
    if known is not None and known[0] is scope:
        return known[1]
    target = None
    try:
        if fs.storage_args:
            raise ValueError("it was made with positional arguments, which the engine cannot be told")
        target = scope.target(protocol, fs.storage_options)
    except Exception as error:  # noqa: BLE001
        scope.refuse(f"{protocol}://", error)
    fs.__dict__["_ioaccel_target"] = scope, target
    return target


# ---- methods ------------------------------------------------------------------------------------


@functools.wraps(_original_open)
def _open(
    self: Any,
    path: Any,
    mode: str = "rb",
    block_size: Any = None,
    cache_options: Any = None,
    compression: Any = None,
    **kwargs: Any,
) -> Any:
    scope = current()
    if scope is not None and mode == "rb" and not kwargs and (target := _target(scope, self)) is not None:
        url = self.unstrip_protocol(os.fspath(path))
        file = scope.open(target, url, url)
        if file is not None:
            if compression is None:
                return file
            return compr[get_compression(url, compression)](file, mode="r")
    return _original_open(self, path, mode, block_size, cache_options, compression, **kwargs)


@functools.wraps(_original_sync)
def _sync(loop: Any, func: Any, *args: Any, timeout: Any = None, **kwargs: Any) -> Any:
    scope = current()
    if scope is not None and not kwargs.keys() - {"start", "end"}:
        shim = _SHIMS.get(getattr(func, "__name__", ""))
        fs = getattr(func, "__self__", None)
        if shim is not None and isinstance(fs, AbstractFileSystem):
            target = _target(scope, fs)
            served = shim(scope, target, fs, *args, **kwargs) if target is not None else None
            if served is not None:
                return served
    return _original_sync(loop, func, *args, timeout=timeout, **kwargs)


def _cat_file(
    scope: Scope,
    target: Target,
    fs: Any,
    path: Any,
    start: int | None = None,
    end: int | None = None,
    *rest: Any,
) -> bytes | None:
    """None leaves it to the original: ranges that count from the end, and whatever else is rare."""
    start = start or 0
    if rest or not isinstance(path, str) or start < 0 or (end is not None and end < start):
        return None
    return scope.read(target, fs.unstrip_protocol(path), start, None if end is None else end - start)


def _cat(scope: Scope, target: Target, fs: Any, path: Any, *rest: Any, **kwargs: Any) -> Any:
    if rest or kwargs or not isinstance(path, str) or has_magic(path):
        return None
    return _cat_file(scope, target, fs, path)


_SHIMS = {"_cat_file": _cat_file, "_cat": _cat}


# ---- fsspec.open --------------------------------------------------------------------------------


class _QuickFile(OpenFile):  # type: ignore[misc]  # fsspec has no types
    """What ``fsspec.open`` returns for a store that was met before: made without asking fsspec."""

    def __init__(self, target: Target, url: str, options: dict[str, Any]) -> None:
        self._target, self._url, self._options = target, url, options
        self._made: OpenFile | None = None
        self.mode, self.compression = "rb", None
        self.encoding, self.errors, self.newline = "utf8", None, None
        self.fobjects: list[Any] = []

    @property
    def _plain(self) -> OpenFile:
        if self._made is None:
            self._made = _original_fsspec_open(self._url, **self._options)
        return self._made

    @property
    def fs(self) -> Any:
        return self._plain.fs

    @property
    def path(self) -> str:
        return str(self._plain.path)

    def __enter__(self) -> Any:
        scope = current()
        file = scope.open(self._target, self._url, self._url) if scope is not None else None
        if file is None:
            return super().__enter__()
        self.fobjects = [file]
        return file

    def __reduce__(self) -> Any:
        return self._plain.__reduce__()


@functools.wraps(_original_fsspec_open)
def _fsspec_open(urlpath: Any, mode: str = "rb", **kwargs: Any) -> Any:
    scope = current()
    if scope is None or mode != "rb" or type(urlpath) is not str:
        return _original_fsspec_open(urlpath, mode, **kwargs)
    scheme = urlpath[: urlpath.find("://")]
    if "::" not in urlpath and not urlpath.endswith("/"):
        for known, options, target in _quick(scope):
            if known == scheme and options == kwargs:
                return _QuickFile(target, urlpath, kwargs)
    opened = _original_fsspec_open(urlpath, mode, **kwargs)
    plain = not kwargs.keys() & {"compression", "encoding", "errors", "protocol", "newline", "expand"}
    if plain and "::" not in urlpath and "://" in urlpath:
        met = _target(scope, opened.fs)
        if met is not None and opened.fs.unstrip_protocol(opened.path) == urlpath:
            _quick(scope).append((scheme, dict(kwargs), met))
    return opened


def _quick(scope: Scope) -> list[tuple[str, dict[str, Any], Target]]:
    """Stores that ``fsspec.open`` was asked for before: scheme, options, target."""
    found: list[tuple[str, dict[str, Any], Target]] = scope.__dict__.setdefault("_quick", [])
    return found


def install() -> None:
    """Puts the shims in place."""
    AbstractFileSystem.open = _open
    fsspec.asyn.sync = _sync
    fsspec.open = fsspec.core.open = _fsspec_open
