"""A store that is nothing but a million keys."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

OBJECTS = 1_000_000
PAGE = 1000


def key_of(number: int) -> str:
    return f"train/{number:07d}.jpg"


class Listing(BaseHTTPRequestHandler):
    """ListObjectsV2 over a bucket that is nothing but a million keys, and GET of zeros."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path.endswith(".jpg"):
            self._get(int(path[-11:-4]))
        else:
            self._list()

    def _get(self, number: int) -> None:
        size = number % 1000
        self.send_response(206 if "Range" in self.headers else 200)
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes 0-{size - 1}/{size}")
        self.send_header("ETag", f'"{number:032x}"')
        self.send_header("Last-Modified", "Mon, 23 Nov 2026 00:00:00 GMT")
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(bytes(size))

    do_HEAD = do_GET  # noqa: N815  # the name that http.server looks for

    def _list(self) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        start = int(query.get("continuation-token", "0"))
        stop = min(start + PAGE, OBJECTS)
        entries = "".join(
            f"<Contents><Key>{key_of(n)}</Key><LastModified>2026-11-23T00:00:00.000Z</LastModified>"
            f'<ETag>"{n:032x}"</ETag><Size>{n % 1000}</Size></Contents>'
            for n in range(start, stop)
        )
        more = f"<NextContinuationToken>{stop}</NextContinuationToken>" if stop < OBJECTS else ""
        body = (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult>'
            f"<IsTruncated>{str(stop < OBJECTS).lower()}</IsTruncated>{more}{entries}</ListBucketResult>"
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def million_objects() -> Iterator[str]:
    """The endpoint of a bucket with ``OBJECTS`` objects below ``train/``: number n has n % 1000 bytes."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Listing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
