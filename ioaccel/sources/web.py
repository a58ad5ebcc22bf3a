"""Web servers, through obstore, and through fsspec where a URL has a query."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from msgspec.structs import replace

from ioaccel.errors import UnsupportedURLError
from ioaccel.sources.base import Fetched, Names, ObjectInfo, Page
from ioaccel.sources.filesystem import FilesystemSource
from ioaccel.sources.objectstore import ObjectStoreSource
from ioaccel.sources.options.client import as_headers
from ioaccel.sources.spec import SourceSpec
from ioaccel.sources.urls import why_unaddressable


def plain(key: str) -> bool:
    """Whether obstore can ask for this path: it encodes all paths itself, and so can ask for none with a
    query, a fragment, an encoded slash or an empty segment."""
    return (
        not any(mark in key for mark in "?#")
        and "%2f" not in key.lower()
        and not why_unaddressable(unquote(key))
    )


class WebSource(ObjectStoreSource):
    """A web server (see `ioaccel.sources.base.Source`). It cannot be listed.

    ``key`` is the path as it stands in the URL, with its query and its percent signs.
    """

    def __init__(self, spec: SourceSpec, bucket: str) -> None:
        super().__init__(spec, bucket)
        self._host = bucket
        self._scheme = spec.scheme
        client = spec.options["client"]
        self._fallback_options: dict[str, Any] = {"client_kwargs": {"headers": as_headers(client)}}
        if client.get("allow_invalid_certificates"):
            self._fallback_options["ssl"] = False

    def stat(self, key: str) -> ObjectInfo:
        if plain(key):
            return super().stat(key)
        return replace(self._fallback(key).stat(f"{self._host}/{key}"), key=key)

    async def astat(self, key: str) -> ObjectInfo:
        if plain(key):
            return await super().astat(key)
        return replace(await self._fallback(key).astat(f"{self._host}/{key}"), key=key)

    def get(self, key: str, start: int, stop: int, version: str | None = None) -> Fetched:
        if plain(key):
            return super().get(key, start, stop, version)
        fetched = self._fallback(key).get(f"{self._host}/{key}", start, stop, version)
        return fetched._replace(info=replace(fetched.info, key=key))

    async def aget(self, key: str, start: int, stop: int, version: str | None = None) -> Fetched:
        if plain(key):
            return await super().aget(key, start, stop, version)
        fetched = await self._fallback(key).aget(f"{self._host}/{key}", start, stop, version)
        return fetched._replace(info=replace(fetched.info, key=key))

    def list(self, prefix: str, after: str | None = None) -> Iterator[Page]:  # noqa: ARG002
        raise self._no_listing(prefix)

    def list_dir(self, prefix: str) -> tuple[Names, Page]:
        raise self._no_listing(prefix)

    def _path(self, key: str) -> str:
        return super()._path(unquote(key))

    def _no_listing(self, prefix: str) -> UnsupportedURLError:
        url = self.url(prefix)
        return UnsupportedURLError(f"{url}: a web server has no listing; name the objects yourself", url=url)

    def _fallback(self, key: str) -> FilesystemSource:
        try:
            import aiohttp  # noqa: F401  # what fsspec's HTTP file system needs
        except ImportError:
            url = self.url(key)
            raise UnsupportedURLError(
                f"{url}: a URL with a query or an odd path is read through fsspec, which needs aiohttp; "
                "run: pip install aiohttp",
                url=url,
            ) from None
        return FilesystemSource(self._scheme, self._fallback_options)
