"""What is to be cached: the objects below a URL, or those that a file names."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple

from ioaccel.errors import ConfigError, UnsupportedURLError

if TYPE_CHECKING:
    from ioaccel import Cache


class Object(NamedTuple):
    """One object; ``size`` is None where only the store knows it."""

    url: str
    size: int | None


@dataclass(frozen=True)
class Listing:
    """Objects, which may be iterated over once."""

    name: str
    count: int
    size: int | None  # bytes of all
    objects: Iterable[Object]


def from_store(cache: Cache, url: str) -> Listing:
    """What lies below ``url``, as the store lists it now, or the one object of that name."""
    from ioaccel.sources import canonical

    if canonical(url).startswith(("http://", "https://")) and not url.endswith("/"):
        return Listing(url, 1, None, [Object(canonical(url), None)])  # a web server has no listing
    table = cache.manifest(url, refresh=True)
    root = table.schema.metadata[b"ioaccel.root"].decode()

    def objects() -> Iterator[Object]:
        for batch in table.select(["key", "size"]).to_batches(max_chunksize=10_000):
            keys, sizes = (column.to_pylist() for column in batch.columns)
            for key, size in zip(keys, sizes, strict=True):
                yield Object(root + key, size)

    return Listing(url, len(table), sum(table["size"].to_pylist()), objects())


def from_file(path: str) -> Listing:
    """The objects that a file names, a URL a line; ``-`` is stdin. Empty lines and ``#`` lines are left out.

    ConfigError if the file cannot be read, UnsupportedURLError for what is no URL.
    """
    from ioaccel.sources import canonical

    urls = []
    for number, line in enumerate(_lines(path), 1):
        text = line.strip()
        if text and not text.startswith("#"):
            try:
                urls.append(canonical(text))
            except UnsupportedURLError as error:
                raise UnsupportedURLError(f"{path}, line {number}: {error}", url=text) from error
    if not urls:
        raise ConfigError(f"{path} names no object; write one URL a line")
    return Listing(path, len(urls), None, map(Object, urls, repeat(None)))


def _lines(path: str) -> list[str]:
    try:
        if path == "-":
            return sys.stdin.read().splitlines()
        with open(path, encoding="utf-8") as file:
            return file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"cannot read the list {path}: {why}", url=path) from error
