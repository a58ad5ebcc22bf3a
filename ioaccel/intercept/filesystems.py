"""fsspec: the methods of every file system that read, and ``fsspec.open``."""

from __future__ import annotations

import builtins
import functools
import os
import shutil
from collections.abc import Callable, Iterable
from typing import Any

import fsspec
import fsspec.asyn
import fsspec.config
import fsspec.core
from fsspec import AbstractFileSystem
from fsspec.compression import compr
from fsspec.core import OpenFile, get_compression, has_magic
from fsspec.implementations.local import make_path_posix

from ioaccel.intercept.reads import Target
from ioaccel.intercept.scope import Scope, current
from ioaccel.sources.urls import OBJECT_SCHEMES

# File systems whose files are in this process or on this machine, or which read through another one, that
# is met here itself.
_NOT_STORES = frozenset(
    {"abstract", "archive", "async_wrapper", "blockcache", "cached", "data", "dir", "file", "filecache"}
    | {"generic", "git", "ioaccel", "jlab", "jupyter", "libarchive", "local", "memory", "reference"}
    | {"simplecache", "tar", "zip"}
)

# Copies to local files go in steps of this, a piece of the cache each.
_COPY_BYTES = 4 << 20

_original_builtin_open = builtins.open
_original_open = AbstractFileSystem.open
_original_sync = fsspec.asyn.sync
_original_fsspec_open = fsspec.core.open


def _target(scope: Scope, fs: Any) -> Target | None:
    """The store that a file system reads, or None if the engine could not reach it in the same way."""
    scheme = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    if scheme in _NOT_STORES:
        return None
    token: str = fs._fs_token
    if token not in scope.file_systems:
        scope.file_systems[token] = None
        if fs.storage_args:
            scope.refuse(f"{scheme}://", "its file system was made with positional arguments; name them")
        else:
            scope.file_systems[token] = _store(scope, scheme, fs.storage_options)
    return scope.file_systems[token]


def _store(scope: Scope, scheme: str, options: dict[str, Any]) -> Target | None:
    try:
        return scope.target(scheme, options)
    except Exception as error:  # noqa: BLE001
        scope.refuse(f"{scheme}://", error)
        return None


def _url(fs: Any, path: Any) -> str:
    """The URL of a path, as the file system understands it. Raises what it may for what is none."""
    return str(fs.unstrip_protocol(fs._strip_protocol(os.fspath(path))))


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
        file = _served(scope, target, self, path)
        if file is not None:
            if compression is None:
                return file
            return compr[get_compression(path, compression)](file, mode="r")
    return _original_open(self, path, mode, block_size, cache_options, compression, **kwargs)


def _served(scope: Scope, target: Target, fs: Any, path: Any) -> Any:
    try:
        url = _url(fs, path)
    except Exception:  # noqa: BLE001  # the original says what is wrong with it
        return None
    return scope.open(target, url, url)


@functools.wraps(_original_sync)
def _sync(loop: Any, func: Any, *args: Any, timeout: Any = None, **kwargs: Any) -> Any:
    scope = current()
    if scope is not None:
        shim = _SHIMS.get(getattr(func, "__name__", ""))
        fs = getattr(func, "__self__", None)
        if shim is not None and isinstance(fs, AbstractFileSystem):
            target = _target(scope, fs)
            if target is not None:
                try:
                    return shim(scope, target, fs, *args, **kwargs)
                except (_NotServed, TypeError, ValueError):  # arguments that are rare, or wrong
                    pass
    return _original_sync(loop, func, *args, timeout=timeout, **kwargs)


class _NotServed(Exception):
    """The original function has to do it."""


def _extent(fs: Any, path: Any, start: Any, end: Any) -> tuple[str, int, int | None]:
    """Ranges that count from the end are rare."""
    start = start or 0
    if not isinstance(path, str) or start < 0 or (end is not None and end < start):
        raise _NotServed
    return _url(fs, path), start, None if end is None else end - start


def _cat_file(scope: Scope, target: Target, fs: Any, path: Any, start: Any = None, end: Any = None) -> bytes:
    data = scope.read(target, *_extent(fs, path, start, end))
    if data is None:
        raise _NotServed
    return data


def _cat(scope: Scope, target: Target, fs: Any, path: Any) -> Any:
    if isinstance(path, str):
        if has_magic(path):
            raise _NotServed
        return _cat_file(scope, target, fs, path)
    if not isinstance(path, list) or any(not isinstance(p, str) or has_magic(p) for p in path):
        raise _NotServed
    paths = sorted({fs._strip_protocol(p) for p in path})
    return dict(zip(paths, _many(scope, target, [_extent(fs, p, None, None) for p in paths]), strict=True))


def _cat_ranges(
    scope: Scope, target: Target, fs: Any, paths: Any, starts: Any, ends: Any, on_error: str = "return"
) -> list[bytes]:
    if not isinstance(paths, list) or on_error not in ("return", "raise"):
        raise _NotServed
    starts, ends = (list(e) if isinstance(e, Iterable) else [e] * len(paths) for e in (starts, ends))
    return _many(scope, target, [_extent(fs, *each) for each in zip(paths, starts, ends, strict=True)])


def _many(scope: Scope, target: Target, extents: list[tuple[str, int, int | None]]) -> list[bytes]:
    found = scope.read_many(target, extents) if extents else None
    if found is None:
        raise _NotServed
    return found


def _get_file(scope: Scope, target: Target, fs: Any, rpath: Any, lpath: Any) -> None:
    """Into a local file; the original has a word to say where that is a directory."""
    if not isinstance(lpath, (str, os.PathLike)) or os.path.isdir(lpath):
        raise _NotServed
    _copy(scope.open(target, _extent(fs, rpath, None, None)[0], ""), lpath)


def _get(scope: Scope, target: Target, fs: Any, rpath: Any, lpath: Any) -> list[None]:
    path = make_path_posix(lpath) if isinstance(lpath, (str, os.PathLike)) else None
    if not isinstance(rpath, str) or path is None or has_magic(rpath):
        raise _NotServed
    if path.endswith("/") or rpath.endswith("/") or os.path.isdir(path):
        raise _NotServed
    file = scope.open(target, _extent(fs, rpath, None, None)[0], "")
    if file is not None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    _copy(file, path)
    return [None]


def _copy(file: Any, path: str | os.PathLike[str]) -> None:
    if file is None:
        raise _NotServed
    with file, _original_builtin_open(path, "wb") as copy:
        shutil.copyfileobj(file, copy, _COPY_BYTES)


_SHIMS: dict[str, Callable[..., Any]] = {
    "_cat": _cat,
    "_cat_file": _cat_file,
    "_cat_ranges": _cat_ranges,
    "_get": _get,
    "_get_file": _get_file,
}


# ---- fsspec.open --------------------------------------------------------------------------------


class _QuickFile(OpenFile):  # type: ignore[misc]  # fsspec has no types
    """What ``fsspec.open`` returns for an object in a store: made without the file system.

    That would have to be imported first: a second, and 40 MB, in each worker.
    """

    # As OpenFile has them; one is made for each sample, so what is the same for all is here.
    mode, compression = "rb", None
    encoding, errors, newline = "utf8", None, None

    def __init__(self, target: Target, url: str, options: dict[str, Any]) -> None:
        self._target, self._url, self._options = target, url, options
        self.fobjects: list[Any] = []

    @functools.cached_property
    def _plain(self) -> OpenFile:
        return _original_fsspec_open(self._url, **self._options)

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

    def __exit__(self, *_: object) -> None:
        while self.fobjects:
            self.fobjects.pop().close()

    close = __exit__

    def __reduce__(self) -> Any:
        return self._plain.__reduce__()


@functools.wraps(_original_fsspec_open)
def _fsspec_open(urlpath: Any, mode: str = "rb", **kwargs: Any) -> Any:
    scope = current()
    if scope is not None and mode == "rb" and type(urlpath) is str and urlpath[-1:] != "/":
        scheme, _, rest = urlpath.partition("://")
        if "::" not in rest:
            target = _quick_target(scope, scheme, kwargs)
            if target is not None:
                return _QuickFile(target, urlpath, kwargs)
    return _original_fsspec_open(urlpath, mode, **kwargs)


# Options that are new with every call (a session, a token) would make as many readers.
_MOST_OPTIONS = 32

# What is not for the file system among the arguments of `fsspec.open`.
_ARGUMENTS = frozenset({"compression", "encoding", "errors", "protocol", "newline", "expand"})


def _quick_target(scope: Scope, scheme: str, options: dict[str, Any]) -> Target | None:
    """The store that ``fsspec.open`` would read, given these options."""
    for known, said, target in scope.quick:
        if known == scheme and said == options:
            return target
    if scheme not in OBJECT_SCHEMES or options.keys() & _ARGUMENTS or len(scope.quick) >= _MOST_OPTIONS:
        return None
    target = _store(scope, scheme, {**fsspec.config.conf.get(scheme, {}), **options})
    scope.quick.append((scheme, dict(options), target))
    return target


def install() -> None:
    """Puts the shims in place."""
    AbstractFileSystem.open = _open
    fsspec.asyn.sync = _sync
    fsspec.open = fsspec.core.open = _fsspec_open
