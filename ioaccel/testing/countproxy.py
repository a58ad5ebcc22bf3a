"""An HTTP proxy in front of an S3 endpoint that counts what passes, and breaks it on request.

It forwards requests as they came, with their Host header, which S3 signatures cover. Correct rather
than fast: it holds each body in memory.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import BinaryIO, Self
from urllib.parse import urlsplit

TIMEOUT = 60.0  # seconds of silence after which either side of a connection is given up


@dataclass(frozen=True)
class Request:
    """What a client asked: ``path`` is percent-encoded and has its query, header names are lower case."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one answer.

    ``delay``     seconds before anything is sent
    ``status``    answer with this status, ``headers`` and ``body``, and do not ask the store
    ``cut_after`` send this many bytes of the body and end the connection, with a reset if ``reset``;
                  ``cut_after=-1`` ends it before the answer begins
    """

    delay: float = 0.0
    status: int | None = None
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    reset: bool = False


Hook = Callable[[Request], Fault | None]


@dataclass
class Counts:
    """What the clients got, by method. ``bytes`` are of bodies, as far as they were sent."""

    requests: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)


class _Hangup(Exception):  # not an error: the end of a connection
    pass


class _Store:
    """A connection to the store, made when the first request needs it."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._socket: socket.socket | None = None
        self._answers: BinaryIO | None = None

    def ask(self, request: bytes) -> BinaryIO:
        """Send a request and return the stream that its answer comes from."""
        if self._socket is None or self._answers is None:
            self._socket = socket.create_connection(self._address, TIMEOUT)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._answers = self._socket.makefile("rb")
        self._socket.sendall(request)
        return self._answers

    def close(self) -> None:
        for each in (self._answers, self._socket):
            if each is not None:
                each.close()


class CountingProxy:
    """Listens on ``endpoint`` for as long as the ``with`` block lasts and forwards to ``upstream``.

    ``hook`` is called for each request before it is forwarded, from many threads, and may return a
    `Fault`; it may also change the store, to make an object change in the middle of a read. It can be
    replaced at any time.
    """

    def __init__(self, upstream: str, hook: Hook | None = None) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.hook = hook
        self.counts = Counts()
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="count-proxy", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept(), which close() would not
        self._listener.close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def reset(self) -> Counts:
        """Start counting from zero and return what was counted so far."""
        with self._lock:
            counts, self.counts = self.counts, Counts()
        return counts

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._connections.add(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(TIMEOUT)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        store = _Store(self._upstream)
        try:
            with client, client.makefile("rb") as questions:
                while self._exchange(client, questions, store):
                    pass
        except (OSError, _Hangup):
            pass
        finally:
            store.close()
            with self._lock:
                self._connections.discard(client)

    def _exchange(self, client: socket.socket, questions: BinaryIO, store: _Store) -> bool:
        """Pass on one request and its answer; whether another may follow on this connection."""
        head, first_line, headers = _read_head(questions)
        body = _read_body(questions, headers)
        method, path, _ = first_line.split(" ", 2)
        fault = (self.hook and self.hook(Request(method, path, headers))) or Fault()
        if fault.delay:
            time.sleep(fault.delay)
        if fault.status is not None:
            lines = {"Content-Length": str(len(fault.body)), **fault.headers}.items()
            reply = (
                f"HTTP/1.1 {fault.status} Injected\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines) + "\r\n"
            )
            self._answer(client, method, reply.encode(), b"" if method == "HEAD" else fault.body, fault)
            return True
        answers = store.ask(head + body)
        while True:
            reply_head, status_line, reply_headers = _read_head(answers)
            status = int(status_line.split(" ", 2)[1])
            if status != 100:  # "100 Continue" comes before the answer itself
                break
            client.sendall(reply_head)
        empty = method == "HEAD" or status in (204, 304)
        self._answer(client, method, reply_head, b"" if empty else _read_body(answers, reply_headers), fault)
        return "close" not in (
            headers.get("connection", "").lower(),
            reply_headers.get("connection", "").lower(),
        )

    def _answer(self, client: socket.socket, method: str, head: bytes, body: bytes, fault: Fault) -> None:
        cut = fault.cut_after
        sent = body if cut is None else body[: max(cut, 0)]
        with self._lock:
            self.counts.requests[method] += 1
            self.counts.bytes[method] += len(sent)
        if cut is None or cut >= 0:
            client.sendall(head + sent)
        if cut is not None:
            if fault.reset:  # closing with a linger time of 0 resets
                time.sleep(0.05)  # or the reset may overtake what was sent
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raise _Hangup


def _read_head(stream: BinaryIO) -> tuple[bytes, str, dict[str, str]]:
    """The head of a message: its bytes, its first line and its headers."""
    lines = []
    while True:
        line = stream.readline()
        if not line.endswith(b"\n"):
            raise _Hangup
        lines.append(line)
        if line in (b"\r\n", b"\n"):
            break
    texts = [line.decode("latin-1").strip() for line in lines[:-1]]
    pairs = (text.partition(":") for text in texts[1:])
    return b"".join(lines), texts[0], {name.lower(): value.strip() for name, _, value in pairs}


def _read_body(stream: BinaryIO, headers: dict[str, str]) -> bytes:
    """The body of a message as it stands on the wire, chunk sizes included."""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        parts = []
        while True:
            line = stream.readline()
            size = int(line.split(b";")[0], 16)
            parts += [line, _exactly(stream, size + 2)]
            if size == 0:
                return b"".join(parts)
    return _exactly(stream, int(headers.get("content-length", 0)))


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise _Hangup
    return data
