"""Reading: one batch for each call, however many objects it names."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.utils import isfilelike, stringify_path

from ioaccel.client.file import BufferedObjectFile
from ioaccel.client.listing import stat_many
from ioaccel.errors import IOAccelError, RangeError
from ioaccel.fs.info import directories_of
from ioaccel.fs.listing import ListingFileSystem

# A file is copied in pieces of this size: eight blocks, which the engine fetches at once.
_PIECE = 32 << 20


class ReadingFileSystem(ListingFileSystem):
    """The methods that read bytes."""

    def _open(self, path: str, mode: str = "rb", **_: Any) -> BufferedObjectFile:
        """The cache's file; it has its own buffer, whatever ``block_size`` or ``cache_options`` say."""
        if mode != "rb":
            self._refuse()
        return self.cache.open(self._url(path))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """The bytes ``[start:end]`` of an object, which are counted as those of a slice."""
        url = self._url(path)
        if not needs_size(start, end):
            try:
                return self.cache.read(*extent_of(url, start, end))
            except RangeError:
                pass  # it ends before
        return self.cache.read(*extent_of(url, start, end, self._reader.size_and_version(url)[0]))

    def cat_ranges(
        self,
        paths: list[str],
        starts: int | list[int | None] | None,
        ends: int | list[int | None] | None,
        max_gap: int | None = None,  # noqa: ARG002  # the engine merges what it asks the store for
        on_error: str = "return",
        **_: Any,
    ) -> list[Any]:
        """`cat_file` of many, in one batch; with ``on_error="return"`` errors stand in the result."""
        if not isinstance(paths, list):
            raise TypeError(f"paths is a list, not {type(paths).__name__}")
        first = starts if isinstance(starts, list) else [starts] * len(paths)
        last = ends if isinstance(ends, list) else [ends] * len(paths)
        wanted = [(self._url(p), a, b) for p, a, b in zip(paths, first, last, strict=True)]
        try:
            return self._read_ranges(wanted)
        except (FileNotFoundError, PermissionError, ValueError):
            if on_error != "return":
                raise
        except IOAccelError as error:  # of the store: it would fail, and take its time, for each of them
            if on_error != "return":
                raise
            return [error] * len(wanted)
        return [self._read_or_error(*each) for each in wanted]

    def _read_ranges(self, wanted: list[tuple[str, int | None, int | None]]) -> list[bytes]:
        if not any(needs_size(start, end) for _, start, end in wanted):
            try:
                return [bytes(each) for each in self.cache.read_many(extent_of(*each) for each in wanted)]
            except RangeError:
                pass  # one of them ends before
        urls = list(dict.fromkeys(url for url, _, _ in wanted))
        sizes = {}
        for url, found in zip(urls, stat_many(self._reader, urls), strict=True):
            if isinstance(found, IOAccelError):
                raise found
            sizes[url] = found.size
        extents = [extent_of(*each, sizes[each[0]]) for each in wanted]
        return [bytes(each) for each in self.cache.read_many(extents)]

    def _read_or_error(self, url: str, start: int | None, end: int | None) -> bytes | Exception:
        try:
            return self.cat_file(url, start, end)
        except IOAccelError as error:
            return error

    def cat(self, path: Any, recursive: bool = False, on_error: str = "raise", **kwargs: Any) -> Any:
        """The bytes of an object, or ``{name: bytes}`` of a list, a pattern or, ``recursive``, a directory.

        All are read in one batch. ``on_error``: "raise", "omit", or "return" the errors in the result.
        """
        names = self.expand_path(path, recursive=recursive)
        start, end = kwargs.get("start"), kwargs.get("end")
        if not isinstance(path, list) and names == [self._strip_protocol(path)]:
            return self.cat_file(names[0], start, end)
        if recursive:
            names = _files(names)
        contents = self.cat_ranges(names, start, end, on_error="raise" if on_error == "raise" else "return")
        read = zip(names, contents, strict=True)
        return {n: c for n, c in read if on_error == "return" or not isinstance(c, Exception)}

    def get(
        self,
        rpath: Any,
        lpath: Any,
        recursive: bool = False,
        callback: Any = DEFAULT_CALLBACK,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Copies files to local paths, as fsspec's; all are fetched at once, and copied one by one."""
        listed = isinstance(rpath, list) and isinstance(lpath, list)
        names = rpath if listed else self.expand_path(rpath, recursive=recursive, maxdepth=maxdepth)
        if len(names) > 1:
            self.cache.prefetch([self._url(name) for name in _files(names)])
        lpath = stringify_path(lpath)
        super().get(rpath, lpath, recursive=recursive, callback=callback, maxdepth=maxdepth, **kwargs)

    def get_file(
        self, rpath: str, lpath: Any = None, callback: Any = DEFAULT_CALLBACK, outfile: Any = None, **_: Any
    ) -> None:
        """Copies one object to a local path or a file object; for a directory, makes an empty one."""
        target = outfile if outfile is not None else lpath if isfilelike(lpath) else None
        try:
            source = self.cache.open(self._url(rpath))
        except (FileNotFoundError, IsADirectoryError):
            if target is not None or not self.isdir(rpath):
                raise
            os.makedirs(lpath, exist_ok=True)
            return
        with source:
            if target is not None:
                _copy(source, target, callback)
                return
            os.makedirs(os.path.dirname(os.path.abspath(lpath)), exist_ok=True)
            with open(lpath, "wb") as file:
                _copy(source, file, callback)


def needs_size(start: int | None, end: int | None) -> bool:
    """Whether ``[start:end]`` counts from the end."""
    return (start is not None and start < 0) or (end is not None and end < 0)


def extent_of(
    url: str, start: int | None, end: int | None, size: int | None = None
) -> tuple[str, int, int | None]:
    """The extent of ``[start:end]``; with the size of the object, limited to it."""
    if size is not None:
        start, end, _ = slice(start, end).indices(size)
    start = start or 0
    return url, start, None if end is None else max(0, end - start)


def _files(names: Iterable[str]) -> list[str]:
    """Those names that no other is below."""
    every = list(names)
    directories = directories_of(every, "")
    return [name for name in every if name not in directories]


def _copy(source: BufferedObjectFile, target: Any, callback: Any) -> None:
    callback.set_size(source.size)
    piece = memoryview(bytearray(min(source.size, _PIECE)))
    while count := source.raw.readinto(piece):
        target.write(piece[:count])
        callback.relative_update(count)
