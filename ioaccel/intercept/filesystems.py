"""fsspec: the methods of every file system that read, and ``fsspec.open``."""

from __future__ import annotations

import functools
import os
from typing import Any

import fsspec
import fsspec.asyn
import fsspec.config
import fsspec.core
from fsspec import AbstractFileSystem
from fsspec.compression import compr
from fsspec.core import OpenFile, get_compression, has_magic

from ioaccel.intercept.scope import Scope, Target, current
from ioaccel.sources.urls import OBJECT_SCHEMES

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


def _target(scope: Scope, fs: Any, url: str) -> Target | None:
    """The store that a file system reads, or None if the engine could not reach it in the same way."""
    scheme = url[: url.find("://")]
    if scheme in _NOT_STORES:
        return None
    known: dict[str, tuple[Scope, Target | None]] = fs.__dict__.setdefault("_ioaccel_targets", {})
    found = known.get(scheme)
    if found is None or found[0] is not scope:
        if fs.storage_args:
            scope.refuse(
                f"{scheme}://", "it was made with positional arguments, which the engine cannot be told"
            )
            found = known[scheme] = scope, None
        else:
            found = known[scheme] = scope, _store(scope, scheme, fs.storage_options)
    return found[1]


def _store(scope: Scope, scheme: str, options: dict[str, Any]) -> Target | None:
    try:
        return scope.target(scheme, options)
    except Exception as error:  # noqa: BLE001
        scope.refuse(f"{scheme}://", error)
        return None


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
    if scope is not None and mode == "rb" and not kwargs:
        url = self.unstrip_protocol(os.fspath(path))
        target = _target(scope, self, url)
        file = scope.open(target, url, url) if target is not None else None
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
            served = shim(scope, fs, *args, **kwargs)
            if served is not None:
                return served
    return _original_sync(loop, func, *args, timeout=timeout, **kwargs)


def _cat_file(
    scope: Scope,
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
    url = fs.unstrip_protocol(path)
    target = _target(scope, fs, url)
    if target is None:
        return None
    return scope.read(target, url, start, None if end is None else end - start)


def _cat(scope: Scope, fs: Any, path: Any, *rest: Any, **kwargs: Any) -> Any:
    if rest or kwargs or not isinstance(path, str) or has_magic(path):
        return None
    return _cat_file(scope, fs, path)


_SHIMS = {"_cat_file": _cat_file, "_cat": _cat}


# ---- fsspec.open --------------------------------------------------------------------------------


class _QuickFile(OpenFile):  # type: ignore[misc]  # fsspec has no types
    """What ``fsspec.open`` returns for an object in a store: made without the file system.

    That would have to be imported first: a second, and 40 MB, in each worker.
    """

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
    if scope is not None and mode == "rb" and type(urlpath) is str and urlpath[-1:] != "/":
        scheme = urlpath[: urlpath.find("://")]
        if scheme in OBJECT_SCHEMES and "::" not in urlpath and not kwargs.keys() & _ARGUMENTS:
            target = _quick_target(scope, scheme, kwargs)
            if target is not None:
                return _QuickFile(target, urlpath, kwargs)
    return _original_fsspec_open(urlpath, mode, **kwargs)


# What is not for the file system among the arguments of `fsspec.open`.
_ARGUMENTS = frozenset({"compression", "encoding", "errors", "protocol", "newline", "expand"})


def _quick_target(scope: Scope, scheme: str, options: dict[str, Any]) -> Target | None:
    """The store that ``fsspec.open`` would read, given these options."""
    met: list[tuple[str, dict[str, Any], Target | None]] = scope.__dict__.setdefault("_quick", [])
    for known, said, target in met:
        if known == scheme and said == options:
            return target
    target = _store(scope, scheme, {**fsspec.config.conf.get(scheme, {}), **options})
    met.append((scheme, dict(options), target))
    return target


def install() -> None:
    """Puts the shims in place."""
    AbstractFileSystem.open = _open
    fsspec.asyn.sync = _sync
    fsspec.open = fsspec.core.open = _fsspec_open
