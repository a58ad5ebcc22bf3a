"""The stores that contestants read from, and what they count."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bench.data import BUCKET
from bench.workload import Workload
from ioaccel.testing.seaweed import SeaweedS3
from ioaccel.testing.shaped import ShapedStore


class Counts(NamedTuple):
    """What clients got so far."""

    requests: int
    bytes: int


class Store(Protocol):
    """A store on this machine. Below ``directory`` lie files; `publish` makes them objects."""

    about: str
    directory: Path
    options: dict[str, Any]

    def publish(self, prefix: str) -> None:
        """The files below ``directory/prefix`` become objects with these keys."""

    def counts(self) -> Counts:
        """Requests and bytes that were answered, counted at the server."""


class _Shaped:
    def __init__(self, store: ShapedStore, workload: Workload) -> None:
        self._store = store
        self.directory = store.directory / BUCKET
        self.options = store.storage_options
        self.about = f"nginx, first byte after {workload.delay_ms:g} ms"
        self.about += f", {workload.rate / 1e6:g} MB/s a connection" if workload.rate else ""
        self.about += f", {workload.throttled:.1%} answered with 503" if workload.throttled else ""

    def publish(self, prefix: str) -> None:
        """They are objects already."""

    def counts(self) -> Counts:
        found = self._store.counts()
        return Counts(found.requests.total(), found.bytes)


class _Seaweed:
    about = "SeaweedFS on this machine"

    def __init__(self, store: SeaweedS3, directory: Path) -> None:
        self._store = store
        self.directory = directory / BUCKET
        self.options = store.storage_options
        store.create_bucket(BUCKET)

    def publish(self, prefix: str) -> None:
        paths = (path for path in sorted((self.directory / prefix).rglob("*")) if path.is_file())
        objects = ((str(path.relative_to(self.directory)), path.read_bytes()) for path in paths)
        self._store.put_many(BUCKET, objects)

    def counts(self) -> Counts:
        with urllib.request.urlopen(self._store.metrics_url, timeout=10) as answer:  # noqa: S310  # our own
            text = answer.read().decode()
        # Uploads are no business of a contestant's; what they take is in bytes received.
        asked = re.findall(
            r'^SeaweedFS_s3_request_total\{.*type="(?:GET|HEAD|LIST)".*\} (\S+)', text, re.MULTILINE
        )
        sent = re.findall(r"^SeaweedFS_s3_bucket_traffic_sent_bytes_total\{.*\} (\S+)", text, re.MULTILINE)
        return Counts(int(sum(map(float, asked))), int(sum(map(float, sent))))


@contextmanager
def started(workload: Workload, scratch: Path) -> Iterator[Store]:
    """The store of a workload. RuntimeError says what is not installed."""
    if workload.store == "seaweed":
        with SeaweedS3(scratch / "seaweed") as store:
            yield _Seaweed(store, scratch / "files")
        return
    shape = {"delay_ms": workload.delay_ms, "rate": workload.rate, "throttled": workload.throttled}
    with ShapedStore(scratch / "store", **shape) as shaped:
        yield _Shaped(shaped, workload)
