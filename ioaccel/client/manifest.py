"""Manifests as tables."""

from __future__ import annotations

import os

import pyarrow as pa

from ioaccel import wire
from ioaccel.client.reader import Reader
from ioaccel.errors import ObjectNotFoundError

# A million objects are a thousand pages, of up to a second each.
_TIMEOUT = 1800.0


def read_manifest(reader: Reader, url: str, refresh: bool) -> pa.Table:
    """The manifest of ``url``, mapped from the file that the engine keeps; without one, listed here."""
    return _table(reader, url, _ask(reader, url, reader.oldest_ms(), refresh))


def read_listing(reader: Reader, url: str, refresh: bool) -> pa.Table:
    """The same, but never one that was listed before the session began, or longer than ``max_age`` ago.

    Not even with ``consistency="immutable"``: objects that do not change may still be added to.
    """
    oldest_ms = reader.started_ms if reader.config.max_age is None else reader.oldest_ms()
    path = _ask(reader, url, oldest_ms, refresh)
    if path is not None and not refresh and os.stat(path).st_mtime_ns < oldest_ms * 1_000_000:
        path = _ask(reader, url, oldest_ms, True)  # it takes long, and the engine offered an old one
    return _table(reader, url, path)


def _ask(reader: Reader, url: str, oldest_ms: int, refresh: bool) -> str | None:
    """The path of a manifest; None if no engine can list the store."""
    message = wire.Manifest(reader.sources_of([url]), url, oldest_ms, _TIMEOUT, refresh)
    answer = reader.ask(message, _TIMEOUT)
    return answer.path if isinstance(answer, wire.ManifestFile) else None


def _table(reader: Reader, url: str, path: str | None) -> pa.Table:
    """The table in the file at ``path``; if that is no good, in a new one, or else listed here."""
    for _ in range(2):
        if path is None:
            break
        try:
            with pa.memory_map(path) as source:
                return pa.ipc.open_file(source).read_all()
        except (OSError, pa.ArrowInvalid):
            path = _ask(reader, url, reader.oldest_ms(), True)
    return _list_here(reader, url)


def _list_here(reader: Reader, url: str) -> pa.Table:
    root, objects = reader.direct.list_all(url, _TIMEOUT)
    if not objects:
        raise ObjectNotFoundError(f"{url}: nothing is stored there; check the bucket and the prefix", url=url)
    columns = {
        "key": pa.array([o.key for o in objects], pa.string()),
        "size": pa.array([o.size for o in objects], pa.int64()),
        "version": pa.array([o.version for o in objects], pa.string()),
    }
    return pa.table(columns).replace_schema_metadata({"ioaccel.root": root, "ioaccel.url": url})
