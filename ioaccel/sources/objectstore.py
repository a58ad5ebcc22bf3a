"""Object stores, through obstore.

obstore drops the GIL, and its synchronous calls from many threads are more than twice as fast as the
asynchronous ones. Its paths are normalised: `why_unaddressable` says what they cannot express. A
listing shows such keys as obstore does (``x//y`` as ``x/y``, the marker ``d/sub/`` as ``d/sub``):
reading one fails, but none is left out, except the marker ``d/`` in a listing of ``d`` itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import obstore

from ioaccel.errors import ObjectNotFoundError, UnsupportedURLError
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
from ioaccel.sources.outcomes import At, NoRangesError, PastTheEndError, translated
from ioaccel.sources.spec import SourceSpec
from ioaccel.sources.stores import note_request, open_store
from ioaccel.sources.urls import why_unaddressable

if TYPE_CHECKING:
    from obstore import Bytes, GetOptions, GetResult, ObjectMeta


class ObjectStoreSource:
    """A bucket of an object store (see `ioaccel.sources.base.Source`)."""

    def __init__(self, spec: SourceSpec, bucket: str) -> None:
        self._store = open_store(spec, bucket)
        self._base = f"{spec.scheme}://{bucket}/"

    def url(self, key: str) -> str:
        return self._base + key

    def stat(self, key: str) -> ObjectInfo:
        path = self._path(key)
        with translated(At(self.url(key))):
            return described(key, obstore.head(self._store, path))

    async def astat(self, key: str) -> ObjectInfo:
        path = self._path(key)
        with translated(At(self.url(key))):
            return described(key, await obstore.head_async(self._store, path))

    def get(self, key: str, start: int, stop: int, version: str | None = None) -> Fetched:
        if not 0 <= start < stop:
            return self._nothing(self.stat(key), start, stop, version)
        path, at = self._path(key), At(self.url(key), start, stop)
        try:
            with translated(at):
                result = obstore.get(self._store, path, options=_options(at, version))
                data = result.bytes()
        except PastTheEndError:
            return self._nothing(self.stat(key), start, stop, version)
        except NoRangesError:
            with translated(at):
                result = _all_of_it(obstore.get(self._store, path), at)
                data = result.bytes()
        return _received(key, result, data, at, version)

    async def aget(self, key: str, start: int, stop: int, version: str | None = None) -> Fetched:
        if not 0 <= start < stop:
            return self._nothing(await self.astat(key), start, stop, version)
        path, at = self._path(key), At(self.url(key), start, stop)
        try:
            with translated(at):
                result = await obstore.get_async(self._store, path, options=_options(at, version))
                data = await result.bytes_async()
        except PastTheEndError:
            return self._nothing(await self.astat(key), start, stop, version)
        except NoRangesError:
            with translated(at):
                result = _all_of_it(await obstore.get_async(self._store, path), at)
                data = await result.bytes_async()
        return _received(key, result, data, at, version)

    def list(self, prefix: str, after: str | None = None) -> Iterator[Page]:
        directory, at = self._directory(prefix), At(self.url(prefix))
        empty = True
        with translated(at):
            pages = iter(obstore.list(self._store, directory, offset=after, chunk_size=PAGE))
        while True:
            with translated(at):
                page = next(pages, None)
            if page is None:
                break
            if infos := _below(directory, page):
                empty = False
                yield infos
        if empty and (after is None or after < prefix):
            yield from self._exact(prefix)

    def list_dir(self, prefix: str) -> tuple[Names, Page]:
        directory = self._directory(prefix)
        with translated(At(self.url(prefix))):
            found = obstore.list_with_delimiter(self._store, directory)
        directories = sorted(found["common_prefixes"])
        objects = sorted(_below(directory, found["objects"]), key=lambda each: each.key)
        if not directories and not objects:
            objects = next(self._exact(prefix), [])
        return directories, objects

    def _exact(self, key: str) -> Iterator[Page]:
        """The object of this very name, which obstore does not list."""
        if key and not key.endswith("/"):
            try:
                yield [self.stat(key)]
            except ObjectNotFoundError:
                return

    def _path(self, key: str) -> str:
        """``key`` as obstore is to be asked for it."""
        note_request()
        if reason := why_unaddressable(key):
            url = self.url(key)
            raise UnsupportedURLError(
                f"cannot read {url!r}: {reason}; copy the object to a plain key", url=url
            )
        return key

    def _directory(self, prefix: str) -> str | None:
        """``prefix`` as obstore is to be asked for what lies below it; None for everything."""
        note_request()
        return self._path(prefix.removesuffix("/")) if prefix else None

    def _nothing(self, info: ObjectInfo, start: int, stop: int, version: str | None) -> Fetched:
        """The answer to a read of no bytes, for which a store has no request. RangeError if it is none."""
        url = self.url(info.key)
        if readable_stop(check_version(info, url, version), url, start, stop) > start:
            raise RetryableError(f"{url}: grew between two requests")
        return Fetched(info, start, b"")


def _below(directory: str | None, metas: Iterable[ObjectMeta]) -> Page:
    """All of ``metas`` but the marker of the directory: it alone is listed below itself."""
    return [described(meta["path"], meta) for meta in metas if meta["path"] != directory]


def described(key: str, meta: ObjectMeta) -> ObjectInfo:
    """The `ObjectInfo` of ``key``. Etags get the quotes that Azure leaves out in listings."""
    etag, size = meta["e_tag"], meta["size"]
    if etag:
        version = etag if etag.startswith(('"', "W/")) else f'"{etag}"'
    else:
        modified = meta["last_modified"]
        version = f"{int(modified.timestamp()) * 10**9 + modified.microsecond * 1000}-{size}"
    return ObjectInfo(key, size, version)


def _options(at: At, version: str | None) -> GetOptions:
    options: GetOptions = {"range": (at.start, at.stop)}
    # Only a strong etag can be asked for; any other version is compared with the answer's.
    if version is not None and version.startswith('"'):
        options["if_match"] = version
    return options


def _all_of_it(result: GetResult, at: At) -> GetResult:
    """``result`` of a request without a range, if that is no more than was asked for. The body has not
    been read yet, so an object that is too large costs nothing."""
    if at.start > 0 or result.meta["size"] > at.stop:
        raise UnsupportedURLError(
            f"{at.url}: the server does not serve ranges, so only small objects can be read from it; "
            "use one that does",
            url=at.url,
        )
    return result


def _received(key: str, result: GetResult, data: Bytes, at: At, version: str | None) -> Fetched:
    info = check_version(described(key, result.meta), at.url, version)
    stop = min(at.stop, info.size)
    if result.range != (at.start, stop) or len(data) != stop - at.start:
        raise RetryableError(f"{at.url}: {len(data)} bytes came instead of {at.start}..{stop}")
    return Fetched(info, at.start, data)
