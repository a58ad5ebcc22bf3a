"""What a source is: something that can list, stat and get ranges of objects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from ioaccel.errors import ObjectChangedError, RangeError

if TYPE_CHECKING:
    from obstore import Bytes

    Data = bytes | memoryview | Bytes

PAGE = 1000
"""Objects on one page of a listing: what S3 puts on one, so a page is one request."""


class ObjectInfo(msgspec.Struct, frozen=True):
    """One object as the store described it.

    ``version`` is its etag with the quotes, or ``mtime_ns-size`` where a store has no etags. Two
    reads that saw the same version saw the same bytes.
    """

    key: str
    size: int
    version: str


# Sources have a method called list, which hides the type of that name inside their classes.
Page = list[ObjectInfo]
Names = list[str]


class Fetched(NamedTuple):
    """What one request brought: ``data`` are the object's bytes from ``start`` on."""

    info: ObjectInfo
    start: int
    data: Data


CHECK_THE_STORE = "check that the endpoint is right, and the store reachable and not overloaded"
"""What to do when all attempts failed."""


class RetryableError(Exception):
    """This attempt failed and the next one may not. Never shown to a user.

    ``throttled``: the store asked for fewer requests. ``timed_out``: it did not answer in time.
    """

    def __init__(self, message: str, *, throttled: bool = False, timed_out: bool = False) -> None:
        super().__init__(message)
        self.throttled = throttled
        self.timed_out = timed_out


class Source(Protocol):
    """A store, bound to one bucket. Safe to use from many threads.

    ``key`` is what follows the bucket; for local files the absolute path; for other file systems all
    that follows ``scheme://``. Nothing is retried here: a failure that is worth another attempt is
    raised as RetryableError, any other as a class of `ioaccel.errors` that names the URL.
    """

    def url(self, key: str) -> str:
        """The canonical URL of ``key``."""
        ...

    def stat(self, key: str) -> ObjectInfo:
        """Size and version of an object, in one request."""
        ...

    async def astat(self, key: str) -> ObjectInfo:
        """`stat` for asynchronous code."""
        ...

    def get(self, key: str, start: int, stop: int, version: str | None = None) -> Fetched:
        """Bytes ``start`` to ``stop`` (exclusive), fewer if the object ends before ``stop``.

        With a ``version``, the bytes are of that version or ObjectChangedError is raised. RangeError
        if ``start`` lies at or past the end, except that reading an empty object from 0 gives nothing.
        """
        ...

    async def aget(self, key: str, start: int, stop: int, version: str | None = None) -> Fetched:
        """`get` for asynchronous code."""
        ...

    def list(self, prefix: str, after: str | None = None) -> Iterator[Page]:
        """Pages of about 1000 of all objects below ``prefix``, recursively, in the store's order.

        That is the order of the keys on S3, GCS, Azure, local files and fsspec; SeaweedFS, for one, walks
        directory by directory (``a/b`` before ``a.txt``).

        ``prefix`` is a directory, not a string prefix: ``train/n01`` and ``train/n01/`` both mean what
        lies below ``train/n01/``, never ``train/n012``. If nothing lies there, ``train/n01`` means the
        object of that name. No such object either: no pages. ``after`` leaves out keys up to and
        including itself.
        """
        ...

    def list_dir(self, prefix: str) -> tuple[Names, Page]:
        """The directories (no trailing slash) and objects directly below ``prefix``.

        ``prefix`` as in `list`. Both parts are empty if nothing is there.
        """
        ...


def anything(source: Source, prefix: str) -> Page:
    """One object below ``prefix``, at any depth, or an empty page if there is none. One request."""
    return next(source.list(prefix), [])[:1]


def readable_stop(info: ObjectInfo, url: str, start: int, stop: int) -> int:
    """Where a read of ``start..stop`` of this object ends. RangeError if it lies outside the object."""
    if start < 0 or stop < start:
        raise RangeError(
            f"{url}: {start}..{stop} is not a range; it needs 0 <= start <= stop",
            url=url,
            range=(start, stop),
        )
    if start > 0 and start >= info.size:
        raise RangeError(
            f"{url}: a read from {start} lies outside its {info.size} bytes; read below that offset",
            url=url,
            range=(start, stop),
        )
    return min(stop, info.size)


def check_version(info: ObjectInfo, url: str, version: str | None) -> ObjectInfo:
    """``info``, if it is of ``version`` or none is asked for; else ObjectChangedError."""
    if version is not None and info.version != version:
        raise changed(url)
    return info


def changed(url: str) -> ObjectChangedError:
    """The error for an object that is no longer of the version being read."""
    return ObjectChangedError(
        f"{url} was replaced while it was being read; read it again from the start", url=url
    )
