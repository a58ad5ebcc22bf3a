"""Local files."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

from aiofiles.os import wrap

from ioaccel.errors import (
    AccessDeniedError,
    DirectoryError,
    IOAccelError,
    ObjectNotFoundError,
    StoreError,
    UnsupportedURLError,
)
from ioaccel.sources.base import (
    PAGE,
    Fetched,
    Names,
    ObjectInfo,
    Page,
    RetryableError,
    check_version,
    readable_stop,
)

# What may be gone at the next attempt: a sick disk, a network file system, a process out of descriptors.
_PASSING = frozenset(
    {
        errno.EAGAIN,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.EREMOTEIO,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)


class LocalSource:
    """Files of this machine (see `ioaccel.sources.base.Source`); a key is an absolute path.

    Listings follow symbolic links, as readers of data sets expect, except into a directory that they
    are in already. They leave out what is not a regular file, and links to nothing.
    """

    def url(self, key: str) -> str:
        return f"file://{key}"

    def stat(self, key: str) -> ObjectInfo:
        with _translated(self.url(key)):
            return _described(key, os.stat(key))

    async def astat(self, key: str) -> ObjectInfo:
        info: ObjectInfo = await wrap(self.stat)(key)
        return info

    def get(self, key: str, start: int, stop: int, version: str | None = None) -> Fetched:
        url = self.url(key)
        with _translated(url):
            # O_NONBLOCK, or opening a FIFO would wait for a writer.
            descriptor = os.open(key, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                info = check_version(_described(key, os.fstat(descriptor)), url, version)
                end = readable_stop(info, url, start, stop)
                data = _read(descriptor, start, end)
                after = _described(key, os.fstat(descriptor))
            finally:
                os.close(descriptor)
        check_version(after, url, version)
        if after != info or len(data) != end - start:
            raise RetryableError(f"{url}: changed while it was being read")
        return Fetched(info, start, data)

    async def aget(self, key: str, start: int, stop: int, version: str | None = None) -> Fetched:
        fetched: Fetched = await wrap(self.get)(key, start, stop, version)
        return fetched

    def list(self, prefix: str, after: str | None = None) -> Iterator[Page]:
        found = self._walk(prefix, after or "")
        while page := list(islice(found, PAGE)):
            yield page

    def list_dir(self, prefix: str) -> tuple[Names, Page]:
        path = prefix.rstrip("/") or "/"
        directories, files = [], []
        for entry, status in self._entries(path):
            if stat.S_ISDIR(status.st_mode):
                directories.append(entry)
            else:
                files.append(_described(entry, status))
        if not directories and not files:
            files = list(self._exact(prefix, ""))
        return directories, files

    def _walk(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        """All files below ``prefix`` whose keys follow ``after``, in the order of their keys."""
        path = prefix.rstrip("/") or "/"
        with _translated(self.url(path)):
            try:
                status = os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                return
        if stat.S_ISDIR(status.st_mode):
            yield from self._below(path, after, ((status.st_dev, status.st_ino),))
        elif not prefix.endswith("/"):
            yield from self._exact(path, after)

    def _below(self, path: str, after: str, inside: tuple[tuple[int, int], ...]) -> Iterator[ObjectInfo]:
        for entry, status in self._entries(path):
            if not stat.S_ISDIR(status.st_mode):
                if entry > after:
                    yield _described(entry, status)
                continue
            here = (status.st_dev, status.st_ino)
            below = f"{entry}/"
            if here not in inside and (below > after or after.startswith(below)):
                yield from self._below(entry, after, (*inside, here))

    def _entries(self, path: str) -> Iterator[tuple[str, os.stat_result]]:
        """Files and directories directly in ``path``, as the keys of all that is in them sort."""
        with _translated(self.url(path)):
            try:
                with os.scandir(path) as found:
                    entries = [(entry, _status(entry)) for entry in found]
            except (FileNotFoundError, NotADirectoryError):
                return
        kept = []
        for entry, status in entries:
            if status is not None and stat.S_ISDIR(status.st_mode):
                kept.append((f"{entry.path}/", entry.path, status))
            elif status is not None and stat.S_ISREG(status.st_mode):
                kept.append((entry.path, entry.path, status))
        for _, key, status in sorted(kept, key=lambda each: each[0]):
            if not key.isascii():
                _check_name(key)
            yield key, status

    def _exact(self, path: str, after: str) -> Iterator[ObjectInfo]:
        try:
            status = os.stat(path)
        except OSError:
            return
        if stat.S_ISREG(status.st_mode) and path > after:
            yield _described(path, status)


def _read(descriptor: int, start: int, stop: int) -> bytes:
    """The bytes from ``start`` to ``stop``, or to the end of the file. One read returns 2 GiB at most."""
    parts = []
    while start < stop and (part := os.pread(descriptor, stop - start, start)):
        parts.append(part)
        start += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat()
    except OSError:  # a link to nothing, or removed since the directory was read
        return None


def _described(key: str, status: os.stat_result) -> ObjectInfo:
    if stat.S_ISREG(status.st_mode):
        return ObjectInfo(key, status.st_size, f"{status.st_mtime_ns}-{status.st_size}")
    url = f"file://{key}"
    if stat.S_ISDIR(status.st_mode):
        raise DirectoryError(f"{url} is a directory; list it", url=url)
    raise UnsupportedURLError(f"{url} is not a regular file; copy its contents", url=url)


def _check_name(key: str) -> None:
    try:
        key.encode()
    except UnicodeEncodeError:
        raise UnsupportedURLError(f"file://{key!r} is not valid UTF-8; rename the file") from None


@contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except IOAccelError:
        raise
    except OSError as error:
        raise _outcome(error, url) from error


def _outcome(error: OSError, url: str) -> Exception:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return ObjectNotFoundError(f"{url} does not exist; check the path", url=url)
    if error.errno in (errno.EACCES, errno.EPERM):
        return AccessDeniedError(f"{url} may not be read by user {os.geteuid()}; change its mode", url=url)
    if error.errno in (errno.ENXIO, errno.ENODEV):
        return UnsupportedURLError(f"{url} is not a regular file; copy its contents", url=url)
    if error.errno in _PASSING:
        return RetryableError(f"{url}: {error.strerror}", timed_out=error.errno == errno.ETIMEDOUT)
    return StoreError(f"{url}: {error.strerror}; check the disk and the path", url=url)
