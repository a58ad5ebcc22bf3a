"""Plain web servers."""

from __future__ import annotations

import asyncio
import builtins
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import pytest

from ioaccel.errors import ObjectChangedError, ObjectNotFoundError, RangeError, UnsupportedURLError
from ioaccel.sources import Source, open_source, resolve, split_object_url

DATA = bytes(range(256)) * 10


class Server(ThreadingHTTPServer):
    """Serves what ``files`` holds, by the path as it is asked for."""

    daemon_threads = True
    files: dict[str, bytes]
    etags = True
    ranges = True
    asked: list[str]
    required: str | None = None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.server.required and self.headers.get("Authorization") != self.server.required:
            return self.answer(403, b"")
        data = self.server.files.get(self.path)
        if data is None:
            return self.answer(404, b"")
        etag = f'"{hashlib.md5(data).hexdigest()}"'
        if self.headers.get("If-Match", etag) != etag:
            return self.answer(412, b"")
        headers = {"Last-Modified": "Mon, 23 Nov 2026 07:00:00 GMT"} | (
            {"ETag": etag} if self.server.etags else {}
        )
        wanted = self.headers.get("Range")
        if wanted is None or not self.server.ranges:
            return self.answer(200, data, headers)
        first, last = wanted.removeprefix("bytes=").split("-")
        start, stop = int(first), min(int(last) + 1, len(data)) if last else len(data)
        if start >= len(data):
            return self.answer(416, b"")
        content = {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
        return self.answer(206, data[start:stop], headers | content)

    def do_HEAD(self) -> None:
        self.do_GET()

    def answer(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.files, server.asked = {}, []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def source(server: Server) -> Source:
    return open_source(resolve("http"), f"127.0.0.1:{server.server_port}")


@pytest.mark.parametrize(
    "path", ["x", "a/b.bin", "a%20b", "%C3%A9", "a%2Fb", "x?q=1&r=2", "a//b", "a+b", "a%25b"]
)
def test_every_path_is_asked_for_as_it_stands(server: Server, source: Source, path: str) -> None:
    server.files[f"/{path}"] = DATA
    url = source.url(path)
    assert split_object_url(url) == ("http", f"127.0.0.1:{server.server_port}", path)
    info = source.stat(path)
    assert (info.key, info.size) == (path, len(DATA))
    fetched = source.get(path, 10, 20, info.version)
    assert (fetched.info, bytes(fetched.data)) == (info, DATA[10:20])
    fetched = asyncio.run(source.aget(path, 2550, 10**6))
    assert (fetched.info, bytes(fetched.data)) == (info, DATA[2550:])
    assert asyncio.run(source.astat(path)) == info
    assert {unquote(asked) for asked in server.asked} == {unquote(f"/{path}")}


def test_characters_that_a_url_should_not_have(server: Server, source: Source) -> None:
    server.files["/a%20%C3%A9"] = DATA
    assert source.stat("a é").size == len(DATA)


@pytest.mark.parametrize("path", ["x", "x?q"])
def test_errors(server: Server, source: Source, path: str) -> None:
    with pytest.raises(ObjectNotFoundError, match=r"does not exist"):
        source.get(path, 0, 1)
    server.files[f"/{path}"] = DATA
    with pytest.raises(RangeError):
        source.get(path, 10**6, 10**7)
    version = source.stat(path).version
    server.files[f"/{path}"] = DATA[::-1]
    with pytest.raises(ObjectChangedError):
        source.get(path, 0, 10, version)
    server.required = "Bearer right"
    with pytest.raises(PermissionError):
        source.get(path, 0, 10)
    allowed = resolve("http", {"headers": {"Authorization": "Bearer right"}})
    opened = open_source(allowed, f"127.0.0.1:{server.server_port}")
    assert bytes(opened.get(path, 0, 3).data) == DATA[::-1][:3]


def test_without_etags_the_time_of_change_and_the_size_are_compared(server: Server, source: Source) -> None:
    server.etags = False
    server.files["/x"] = DATA
    version = source.stat("x").version
    assert bytes(source.get("x", 0, 5, version).data) == DATA[:5]
    server.files["/x"] = DATA + b"more"
    with pytest.raises(ObjectChangedError):
        source.get("x", 0, 5, version)


def test_without_ranges_small_objects_can_be_read(server: Server, source: Source) -> None:
    server.ranges = False
    server.files["/x"] = DATA
    server.files["/x?q"] = DATA
    for path in ("x", "x?q"):
        assert bytes(source.get(path, 0, 10**6).data) == DATA
    with pytest.raises(UnsupportedURLError, match="does not serve ranges"):
        source.get("x", 0, 10)
    assert bytes(source.get("x?q", 5, 10).data) == DATA[5:10]


def test_nothing_can_be_listed(source: Source) -> None:
    with pytest.raises(UnsupportedURLError, match="no listing"):
        source.list("")
    with pytest.raises(UnsupportedURLError, match="no listing"):
        source.list_dir("")


def test_a_query_needs_aiohttp(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_aiohttp(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "aiohttp":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_aiohttp)
    with pytest.raises(UnsupportedURLError, match="pip install aiohttp"):
        source.get("x?q=1", 0, 1)


def test_schemes_that_nothing_reads() -> None:
    with pytest.raises(UnsupportedURLError, match="nothing reads nonsense://"):
        open_source(resolve("nonsense"), "")
    with pytest.raises(UnsupportedURLError, match="cannot be read yet"):
        open_source(resolve("dropbox"), "")
