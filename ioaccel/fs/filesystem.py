"""The file system as a whole, and its asynchronous face."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ioaccel.client.file import BufferedObjectFile
from ioaccel.errors import RangeError
from ioaccel.fs.reading import ReadingFileSystem, extent_of, needs_size


def _in_thread(name: str) -> Callable[..., Awaitable[Any]]:
    """The asynchronous twin of a method."""

    async def twin(self: IOAccelFileSystem, *args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(getattr(self, name), *args, **kwargs)

    return twin


class IOAccelFileSystem(ReadingFileSystem):
    """Objects of a target file system, read through the cache; see `ioaccel.fs.names` for their names.

    target_protocol  its scheme; without one (and without ``fs``) paths are URLs of any scheme
    target_options   its storage options
    fs               instead of both: an instance of it, whose protocol and options are taken
    cache_dir, cache_size, consistency, max_age, timeout: as `ioaccel.connect` has them

    Instances with the same settings share one cache, and so one session, in all threads and in processes
    that inherit or unpickle them. What the store said of an object is believed for the session, unless
    ``consistency`` or ``max_age`` say otherwise; ``find`` without ``maxdepth`` believes its listing as
    long, ``ls`` asks each time. `invalidate_cache` begins the session anew.

    Its synchronous and its asynchronous methods may be called on the same instance, from any thread.
    """

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """`cat_file`; a hit is served at once, anything else waits in a thread."""
        if not needs_size(start, end):
            try:
                return await self.cache.aread(*extent_of(self._url(path), start, end))
            except RangeError:
                pass  # it ends before
        return await asyncio.to_thread(self.cat_file, path, start, end)

    _cat = _in_thread("cat")
    _cat_ranges = _in_thread("cat_ranges")
    _du = _in_thread("du")
    _exists = _in_thread("exists")
    _find = _in_thread("find")
    _get = _in_thread("get")
    _get_file = _in_thread("get_file")
    _info = _in_thread("info")
    _isdir = _in_thread("isdir")
    _isfile = _in_thread("isfile")
    _ls = _in_thread("ls")


def gopen(url: str, mode: str = "rb", bufsize: int = 0, **options: Any) -> BufferedObjectFile:  # noqa: ARG001
    """Opens URLs for WebDataset, which is told so once: ``wds.gopen_schemes["ioaccel"] = ioaccel.fs.gopen``.

    Then ``wds.WebDataset("ioaccel::s3://bucket/shard-{000..099}.tar")`` reads through the cache. Registered
    as ``"s3"``, plain ``s3://`` URLs do so too. ``options``, from `functools.partial`, are those of
    `IOAccelFileSystem`.
    """
    return IOAccelFileSystem(**options)._open(url, mode)
