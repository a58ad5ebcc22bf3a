"""Listings of a directory of plain files as S3 words them: what nginx cannot do by itself.

A server on a Unix socket; `ioaccel.testing.shaped` has nginx pass requests for buckets on to it.
"""

from __future__ import annotations

import os
import sys
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 1000  # S3's own limit
WALKS = 8  # listings that may be under way at the same time; one of a million keys takes 80 MB
LAST = "\U0010ffff"  # sorts behind whatever follows a common prefix


def etag(status: os.stat_result) -> str:
    """nginx's ETag of a file. It has whole seconds only."""
    return f'"{_seconds(status):x}-{status.st_size:x}"'


def _seconds(status: os.stat_result) -> int:
    """The seconds of a file's mtime. The float that ``st_mtime`` is may be that of the next one."""
    return status.st_mtime_ns // 10**9


class _Failed(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class ListingServer:
    """Lists the buckets below ``objects`` on a Unix socket for as long as the ``with`` block lasts."""

    def __init__(self, objects: Path, socket: Path) -> None:
        self._objects = objects
        self._socket = socket
        self._lock = threading.Lock()
        self._walks: dict[str, list[str]] = {}  # keys, by the number that their continuation tokens carry
        self._count = 0

    def __enter__(self) -> Self:
        outer: ListingServer = self

        class Handler(_Handler):
            listing = outer

        self._server = _Server(str(self._socket), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="s3-listing", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._socket.unlink(missing_ok=True)

    def answer(self, bucket: str, query: dict[str, str]) -> str:
        """The body of an answer. _Failed says which error it is instead."""
        if not bucket:
            names = sorted(each.name for each in os.scandir(self._objects) if each.is_dir())
            buckets = "".join(f"<Bucket><Name>{escape(name)}</Name></Bucket>" for name in names)
            return f"<ListAllMyBucketsResult><Buckets>{buckets}</Buckets></ListAllMyBucketsResult>"
        if not (self._objects / bucket).is_dir():
            raise _Failed(404, "NoSuchBucket", "The specified bucket does not exist")
        if "location" in query:
            return "<LocationConstraint/>"
        if query.get("list-type") != "2":
            raise _Failed(501, "NotImplemented", "of a bucket, only ListObjectsV2 is served")
        return self._page(bucket, query)

    def _page(self, bucket: str, query: dict[str, str]) -> str:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        limit = min(int(query.get("max-keys", PAGE)), PAGE)
        number, keys, position = self._begin(bucket, prefix, query)
        written = quote if query.get("encoding-type") == "url" else escape
        parts: list[str] = []
        while len(parts) < limit and position < len(keys) and keys[position].startswith(prefix):
            key = keys[position]
            head, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if cut:
                common = prefix + head + cut
                parts.append(f"<CommonPrefixes><Prefix>{written(common)}</Prefix></CommonPrefixes>")
                position = bisect_right(keys, common + LAST)
            else:
                with suppress(FileNotFoundError):  # removed since
                    parts.append(_contents(self._objects / bucket / key, written(key)))
                position += 1
        more = limit > 0 and position < len(keys) and keys[position].startswith(prefix)
        token = f"<NextContinuationToken>{number}.{position}</NextContinuationToken>" if more else ""
        return (
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{escape(bucket)}</Name><Prefix>{written(prefix)}</Prefix><MaxKeys>{limit}</MaxKeys>"
            f"<KeyCount>{len(parts)}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>"
            f"{'<EncodingType>url</EncodingType>' if written is quote else ''}"
            f"{token}{''.join(parts)}</ListBucketResult>"
        )

    def _begin(self, bucket: str, prefix: str, query: dict[str, str]) -> tuple[str, list[str], int]:
        """The keys that a page is cut from, the number they are kept under, and where it begins.

        The first page walks the files; those that continue it are cut from the same walk.
        """
        if "continuation-token" in query:
            number, _, position = query["continuation-token"].partition(".")
            with self._lock:
                if number not in self._walks:
                    raise _Failed(400, "InvalidArgument", "The continuation token provided is incorrect")
                return number, self._walks[number], int(position)
        keys = sorted(_files(self._objects / bucket, "", prefix))
        with self._lock:
            self._count += 1
            self._walks[number := str(self._count)] = keys
            if len(self._walks) > WALKS:
                del self._walks[next(iter(self._walks))]
        first = bisect_left(keys, prefix)
        if after := query.get("start-after"):
            first = max(first, bisect_right(keys, after))
        return number, keys, first


class _Server(ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 128  # nginx answers 502 when the queue is full

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no error: nginx then hangs up on us."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    listing: ListingServer

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        status = 200
        try:
            body = self.listing.answer(unquote(parts.path).strip("/"), query)
        except _Failed as failed:
            status = failed.status
            body = f"<Error><Code>{failed.code}</Code><Message>{failed}</Message></Error>"
        data = f'<?xml version="1.0" encoding="UTF-8"?>\n{body}'.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def do_HEAD(self) -> None:
        """HeadBucket: whether there is one."""
        self.path = urlsplit(self.path).path + "?location"
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


def _files(directory: Path, below: str, prefix: str) -> Iterator[str]:
    """The keys of a directory's objects that begin with ``below``, except where none can match."""
    with os.scandir(directory) as found:
        for each in found:
            key = below + each.name
            if each.is_dir():
                if f"{key}/".startswith(prefix) or prefix.startswith(f"{key}/"):
                    yield from _files(directory / each.name, f"{key}/", prefix)
            elif key.startswith(prefix):
                yield key


def _contents(path: Path, key: str) -> str:
    status = path.stat()
    modified = datetime.fromtimestamp(_seconds(status), UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return (
        f"<Contents><Key>{key}</Key><LastModified>{modified}</LastModified><ETag>{escape(etag(status))}</ETag>"
        f"<Size>{status.st_size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
    )
