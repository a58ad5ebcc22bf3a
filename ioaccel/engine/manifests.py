"""Manifests: what stands below a URL, kept as Arrow IPC files that clients map.

A manifest that is younger than the reader's session is used as it is. An older one is listed anew;
if that takes longer than a moment, the old one is served and the listing goes on behind it, so a
data set of a million objects opens at once and a small one is always fresh.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ioaccel._core._engine import block_key
from ioaccel.engine.flights import Flights, Latch
from ioaccel.engine.objects import Objects, now_ms
from ioaccel.errors import ObjectNotFoundError, StoreError, StoreTimeoutError
from ioaccel.sources import ObjectInfo, RetryableError, Source, SourceSpec
from ioaccel.sources.base import CHECK_THE_STORE

if TYPE_CHECKING:
    import pyarrow as pa

# How long a reader waits for a new listing while an old one is at hand: a few pages of S3.
GRACE_SECONDS = 0.3

# Rows of one record batch: 5 MB of keys, so that writing a manifest needs little memory.
_ROWS = 65_536

# A listing is started again at the page that failed, with these pauses.
_PAUSES = (0.2, 1.0, 3.0, 5.0)


class Manifests:
    """The manifests of one cache. Any thread."""

    def __init__(self, directory: Path, flights: Flights, objects: Objects) -> None:
        self._directory = directory
        self._flights = flights
        self._objects = objects

    def path(
        self,
        spec: SourceSpec,
        source: Source,
        key: str,
        oldest_ms: int,
        timeout: float,
        refresh: bool,
        count_request: Callable[[int], None],
    ) -> Path:
        """The file that lists everything below ``key``.

        Raises ObjectNotFoundError if nothing is there, StoreTimeoutError if there is no manifest yet
        and the store did not list in time.
        """
        url = source.url(key)
        path = self._directory / f"{block_key(spec.identity, url).hex()}.arrow"
        kept = _modified_ms(path)
        if kept is not None and kept >= oldest_ms and not refresh:
            return path
        latch = Latch()
        flight = self._flights.start(
            ("manifest", path), lambda: self._write(path, spec, source, key, count_request), latch
        )
        latch.wait(min(timeout, GRACE_SECONDS) if kept is not None and not refresh else timeout)
        if flight.done:
            flight.value()
        elif kept is None or refresh:
            raise StoreTimeoutError(
                f"{url}: the store did not finish listing it in {timeout:.0f} s; allow more with timeout=",
                url=url,
                elapsed=timeout,
            )
        return path

    def _write(
        self, path: Path, spec: SourceSpec, source: Source, key: str, count_request: Callable[[int], None]
    ) -> None:
        import pyarrow as pa

        begun_ms = now_ms()
        url = source.url(key)
        schema = pa.schema(
            [("key", pa.string()), ("size", pa.int64()), ("version", pa.string())],
            metadata={"ioaccel.root": source.url("X")[:-1], "ioaccel.url": url},
        )
        self._directory.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(f".{os.getpid()}.tmp")
        rows: list[ObjectInfo] = []
        total = 0
        try:
            with pa.OSFile(str(scratch), "wb") as file, pa.ipc.new_file(file, schema) as writer:
                for page in _pages(source, key, url, count_request):
                    for info in page:
                        base = block_key(spec.identity, source.url(info.key))
                        self._objects.listed(base, info, begun_ms)
                    rows += page
                    total += len(page)
                    if len(rows) >= _ROWS:
                        writer.write_batch(_batch(rows, schema))
                        rows = []
                writer.write_batch(_batch(rows, schema))
            if total == 0:
                raise ObjectNotFoundError(
                    f"{url}: nothing is stored there; check the bucket and the prefix", url=url
                )
            os.utime(scratch, ns=(begun_ms * 1_000_000,) * 2)
            os.replace(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)


def _pages(
    source: Source, key: str, url: str, count_request: Callable[[int], None]
) -> Iterator[list[ObjectInfo]]:
    """All pages of a listing; after a failure that may pass, it goes on behind the last key."""
    last: str | None = None
    pauses = iter(_PAUSES)
    begun = time.monotonic()
    while True:
        try:
            for page in source.list(key, last):
                count_request(1)
                yield page
                if page:
                    last = page[-1].key
            return
        except RetryableError as error:
            pause = next(pauses, None)
            if pause is None:
                raise StoreError(
                    f"cannot list {error}; {CHECK_THE_STORE}",
                    url=url,
                    attempts=len(_PAUSES) + 1,
                    elapsed=time.monotonic() - begun,
                ) from error
            time.sleep(pause)


def _batch(rows: list[ObjectInfo], schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    columns = ([r.key for r in rows], [r.size for r in rows], [r.version for r in rows])
    arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
    return pa.record_batch(arrays, schema=schema)


def _modified_ms(path: Path) -> int | None:
    try:
        return os.stat(path).st_mtime_ns // 1_000_000
    except FileNotFoundError:
        return None
