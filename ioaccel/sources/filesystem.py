"""Any file system of fsspec: what neither obstore nor the operating system reads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from ioaccel.errors import (
    AccessDeniedError,
    ConfigError,
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

# What file systems call the fact that changes with the contents, best first.
_ETAGS = ("ETag", "etag", "e_tag", "checksum", "md5", "Content-MD5", "blob_id", "sha")
_TIMES = ("mtime", "LastModified", "last_modified", "Last-Modified", "modified", "updated", "created")


class FilesystemSource:
    """A file system of fsspec (see `ioaccel.sources.base.Source`); a key is all that follows ``scheme://``.

    fsspec has no conditional reads: an object is described before and after its bytes are fetched, or
    only after them where the version is known. A file system that says neither etag nor time of change
    is believed to keep an object of the same size unchanged.
    """

    def __init__(self, scheme: str, options: Mapping[str, Any]) -> None:
        self._scheme = scheme
        self._options = dict(options)
        try:
            fsspec.get_filesystem_class(scheme)
        except ValueError as error:
            raise UnsupportedURLError(
                f"nothing reads {scheme}:// URLs; install the fsspec file system that does"
            ) from error
        except ImportError as error:
            raise UnsupportedURLError(f"{scheme}:// URLs cannot be read yet: {error}") from error

    def url(self, key: str) -> str:
        return f"{self._scheme}://{key}"

    def stat(self, key: str) -> ObjectInfo:
        with self._translated(key):
            fs, path = self._at(key)
            return self._described(key, fs.info(path))

    async def astat(self, key: str) -> ObjectInfo:
        return await asyncio.to_thread(self.stat, key)

    def get(self, key: str, start: int, stop: int, version: str | None = None) -> Fetched:
        url = self.url(key)
        with self._translated(key):
            fs, path = self._at(key)
            before = None if version is not None else self._described(key, fs.info(path))
            if before is not None:
                stop = readable_stop(before, url, start, stop)
            data, failure = _read(fs, path, start, stop)
            info = self._described(key, fs.info(path))
            if failure is not None and start < info.size:  # else it failed because there was nothing to read
                raise failure
        if before is not None and info != before:
            raise RetryableError(f"{url}: changed while it was being read")
        check_version(info, url, version)
        wanted = readable_stop(info, url, start, stop) - start
        if len(data) == info.size > wanted:  # a web server that does not know ranges sends everything
            data = data[start : start + wanted]
        if len(data) != wanted:
            raise RetryableError(f"{url}: {len(data)} bytes came instead of {wanted}")
        return Fetched(info, start, data)

    async def aget(self, key: str, start: int, stop: int, version: str | None = None) -> Fetched:
        return await asyncio.to_thread(self.get, key, start, stop, version)

    def list(self, prefix: str, after: str | None = None) -> Iterator[Page]:
        with self._translated(prefix):
            fs, path = self._at(prefix)
            found = fs.find(path, detail=True)
            page = [self._described(self._key(name, prefix), info) for name, info in found.items()]
        page = sorted((each for each in page if after is None or each.key > after), key=lambda each: each.key)
        for first in range(0, len(page), PAGE):
            yield page[first : first + PAGE]

    def list_dir(self, prefix: str) -> tuple[Names, Page]:
        directories, files = [], []
        with self._translated(prefix):
            fs, path = self._at(prefix)
            try:
                found = fs.ls(path, detail=True)
            except FileNotFoundError:
                return [], []
            for info in found:
                key = self._key(info["name"], prefix).rstrip("/")
                if info["type"] == "directory":
                    directories.append(key)
                else:
                    files.append(self._described(key, info))
        return sorted(directories), sorted(files, key=lambda each: each.key)

    def _at(self, key: str) -> tuple[Any, str]:
        """The file system that reads ``key``, and its name there. The URL may hold the host; fsspec keeps
        one instance for each set of options and thread."""
        fs, path = url_to_fs(self.url(key), **self._options)
        fs.invalidate_cache(path)  # or what it listed once would be its answer for ever
        return fs, path

    def _key(self, name: str, like: str) -> str:
        """The key of what fsspec calls ``name``; it begins with a slash if ``like``, what was asked, does."""
        rest = name.partition("://")[2] if "://" in name else name
        return rest if like.startswith("/") else rest.lstrip("/")

    def _described(self, key: str, info: Mapping[str, Any]) -> ObjectInfo:
        url = self.url(key)
        if info.get("type") == "directory":
            raise DirectoryError(f"{url} is a directory; list it", url=url)
        size = info.get("size")
        if size is None:
            raise UnsupportedURLError(f"{url}: the server does not tell its size; copy the object", url=url)
        etag = next((info[name] for name in _ETAGS if info.get(name)), None)
        if etag is not None:
            return ObjectInfo(key, size, str(etag))
        time = next((info[name] for name in _TIMES if info.get(name)), "")
        # One file system may give a datetime for a file and a number of seconds in a listing.
        return ObjectInfo(key, size, f"{time.timestamp() if isinstance(time, datetime) else time}-{size}")

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        try:
            yield
        except (IOAccelError, RetryableError):
            raise
        except Exception as error:
            raise _outcome(error, self.url(key)) from error


def _read(fs: Any, path: str, start: int, stop: int) -> tuple[bytes, Exception | None]:
    """The bytes, or none and why. Some file systems fail at the end of a file, and some give nothing."""
    if not 0 <= start < stop:
        return b"", None
    try:
        return fs.cat_file(path, start=start, end=stop), None  # by name: s3fs has another argument between
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # noqa: BLE001  # its meaning depends on the size of the object
        return b"", error


def _outcome(error: Exception, url: str) -> Exception:
    """What a failure of a file system means: try again, or give up with this error."""
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # fsspec's HTTP says "not found" for whatever went wrong
    brief = f"{type(error).__name__}: {error}"[:300]
    status = getattr(error, "status", None)  # aiohttp's
    if isinstance(error, (FileNotFoundError, NotADirectoryError)) or status in (404, 410):
        return ObjectNotFoundError(f"{url} does not exist; check the path", url=url)
    if isinstance(error, PermissionError) or status in (401, 403):
        return AccessDeniedError(f"{url}: access denied ({brief}); check storage_options", url=url)
    if isinstance(error, IsADirectoryError):
        return DirectoryError(f"{url} is a directory; list it", url=url)
    if isinstance(error, NotImplementedError):
        return UnsupportedURLError(f"{url}: the file system cannot do this ({brief})", url=url)
    if isinstance(error, ImportError):
        return UnsupportedURLError(f"{url} cannot be read yet: {error}", url=url)
    if isinstance(error, (TypeError, ValueError)):
        return ConfigError(
            f"{url}: the file system does not accept this ({brief}); check storage_options", url=url
        )
    if status in (429, 503):
        return RetryableError(f"{url}: the server asks for fewer requests ({status})", throttled=True)
    if isinstance(error, TimeoutError):
        return RetryableError(f"{url}: no answer in time ({brief})", timed_out=True)
    if isinstance(error, OSError) or (isinstance(status, int) and status >= 500):
        return RetryableError(f"{url}: {brief}")
    if type(error).__module__.startswith("aiohttp") and status is None:
        return RetryableError(f"{url}: the connection failed ({brief})")
    return StoreError(f"{url}: the file system failed ({brief})", url=url)
