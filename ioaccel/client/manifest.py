"""Manifests as tables."""

from __future__ import annotations

import pyarrow as pa

from ioaccel import wire
from ioaccel.client.reader import Reader
from ioaccel.errors import ObjectNotFoundError

# A million objects are a thousand pages, of up to a second each.
_TIMEOUT = 1800.0


def read_manifest(reader: Reader, url: str, refresh: bool) -> pa.Table:
    """The manifest of ``url``, mapped from the file that the engine keeps; without one, listed here."""
    answer = reader.ask(
        wire.Manifest(reader.sources_of([url]), url, reader.oldest_ms(), _TIMEOUT, refresh), _TIMEOUT
    )
    if isinstance(answer, wire.ManifestFile):
        with pa.memory_map(answer.path) as source:
            return pa.ipc.open_file(source).read_all()
    root, objects = reader.direct.list_all(url)
    if not objects:
        raise ObjectNotFoundError(
            f"{url}: nothing is stored there; check the bucket and the prefix", url=url
        )
    columns = {
        "key": pa.array([o.key for o in objects], pa.string()),
        "size": pa.array([o.size for o in objects], pa.int64()),
        "version": pa.array([o.version for o in objects], pa.string()),
    }
    return pa.table(columns).replace_schema_metadata({"ioaccel.root": root, "ioaccel.url": url})
