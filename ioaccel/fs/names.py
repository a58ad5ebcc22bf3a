"""Names: what fsspec calls objects, and the URLs that the cache knows them by.

===================  =============================  ===================================
target               name                           URL
===================  =============================  ===================================
s3, gs, az           ``bucket/key``                 ``s3://bucket/key``
file                 ``/absolute/path``             ``file:///absolute/path``
http, https          ``https://host/path``          the same
another              as its file system names it    ``scheme://`` and the name
none                 the URL; files as above        the name
===================  =============================  ===================================

These are the names that the target's own file system has, so one may take the place of the other.
"""

from __future__ import annotations

import os
from typing import Any

import fsspec

from ioaccel.errors import ConfigError
from ioaccel.sources.urls import ALIASES, OBJECT_SCHEMES, canonical

WEB = frozenset({"http", "https"})
FLAT = OBJECT_SCHEMES - WEB
"""Stores without directories: one is there if a key begins with its name."""

_SLASH_COUNTS = ("http://", "https://", "file:///")  # of a file it is the root


class Names:
    """The names of one target: a scheme, or None for whatever each URL says."""

    def __init__(self, scheme: str | None) -> None:
        self.scheme = scheme = ALIASES.get(scheme, scheme) if scheme else None
        if scheme == "ioaccel":
            raise ConfigError("ioaccel:// is the cache itself; name the file system that it is to read from")
        self._spellings = tuple(f"{alias}://" for alias, meant in ALIASES.items() if meant == scheme)
        # Not imported for stores that obstore reads: their file systems need not be installed.
        known = scheme is None or scheme == "file" or scheme in OBJECT_SCHEMES
        self._foreign: Any = None if known else fsspec.get_filesystem_class(scheme)

    def name(self, path: str | os.PathLike[Any]) -> str:
        """The name that ``path`` means, with or without its protocol. UnsupportedURLError if none."""
        text = path if type(path) is str else os.fspath(path)
        if text.startswith("ioaccel:"):
            text = text.removeprefix("ioaccel://").removeprefix("ioaccel::")
        if self.scheme in FLAT:
            if text.startswith((f"{self.scheme}://", *self._spellings)):
                text = text[text.index("://") + 3 :]
            return text.rstrip("/")
        if self.scheme in WEB:
            return text if "://" in text else f"{self.scheme}://{text}"
        if self._foreign is not None:
            return str(self._foreign._strip_protocol(text))
        if self.scheme == "file" and not text.startswith(("file:", *self._spellings)):
            text = f"file://{text or '.'}"
        url = canonical(text or ".")
        return self.name_of(url if url.startswith(_SLASH_COUNTS) else url.rstrip("/"))

    def strip(self, path: Any) -> Any:
        """`name` of a path, or of each in a list."""
        return [self.name(each) for each in path] if isinstance(path, list) else self.name(path)

    def url(self, name: str) -> str:
        """The URL of a name."""
        if self.scheme in WEB or (self.scheme is None and "://" in name):
            return name
        return f"{self.scheme or 'file'}://{name}"

    def name_of(self, url: str) -> str:
        """The name of a canonical URL."""
        scheme, _, rest = url.partition("://")
        return url if self.scheme in WEB or (self.scheme is None and scheme != "file") else rest
