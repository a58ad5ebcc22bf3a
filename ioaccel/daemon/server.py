"""Serves an engine on a Unix socket: one thread a connection, one request at a time on each.

The socket stands in the first cache directory, so whoever names the directories finds it. A
connection that hangs up is a client that is gone, however it died; there is nothing to clean up.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

import ioaccel
from ioaccel import wire
from ioaccel.engine.engine import Engine
from ioaccel.engine.item import as_ioaccel_error
from ioaccel.engine.sessions import ClientPage
from ioaccel.errors import EngineError
from ioaccel.sources import SourceSpec

log = logging.getLogger("ioaccel.daemon")

# How long a private engine waits for the next client: longer than a script takes from one
# `with connect()` to the next, shorter than anybody waits for a process to be gone.
LINGER_SECONDS = 1.0
# The same before the first client: it has yet to import what the engine imported.
FIRST_CLIENT_SECONDS = 30.0

_PEER = struct.Struct("3i")


class Server:
    """Accepts connections until it is stopped or, if ``private``, until the last client has left."""

    def __init__(self, engine: Engine, directories: list[str], *, private: bool) -> None:
        path = Path(directories[0]) / wire.SOCKET
        self._engine = engine
        self._directories = directories
        self._private = private
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._last_left = time.monotonic() + FIRST_CLIENT_SECONDS - LINGER_SECONDS
        self._stop = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with wire.short_path(path) as address:
            path.unlink(missing_ok=True)
            self._listener.bind(address)
            os.chmod(address, 0o600)
        self._listener.listen(256)
        self._listener.settimeout(0.2)

    def run(self) -> None:
        """Serves until the end; to be called in the main thread."""
        while not self._stop.is_set() and not self._deserted():
            try:
                sock, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError as error:  # out of descriptors: some may be closed soon
                log.warning("cannot accept a connection: %s", error)
                self._stop.wait(0.1)
                continue
            sock.settimeout(None)
            with self._lock:
                self._sockets.add(sock)
            threading.Thread(target=self._serve, args=(sock,), name="ioaccel-client", daemon=True).start()
        self._listener.close()

    def expect_nobody(self) -> None:
        """The first client will not come; no other is waited for longer than after the last one."""
        self._last_left = time.monotonic()

    def stop(self) -> None:
        """Ends ``run`` soon; any thread, also a signal handler."""
        self._stop.set()

    def _deserted(self) -> bool:
        """Whether a private engine may leave. A client that was killed counts as gone at once, though
        the thread that serves it may wait for the store for a while yet."""
        if not self._private:
            return False
        poll = select.poll()
        with self._lock:
            for sock in self._sockets:
                poll.register(sock, select.POLLRDHUP)
            if len(poll.poll(0)) < len(self._sockets):
                self._last_left = time.monotonic()
                return False
            return time.monotonic() - self._last_left > LINGER_SECONDS

    def _serve(self, sock: socket.socket) -> None:
        connection = _Connection(self._engine, self._directories, sock, self.stop)
        try:
            connection.run()
        except (wire.Disconnected, OSError):
            pass
        except Exception:
            log.exception("a connection ended with an error")
        finally:
            with self._lock:
                self._sockets.discard(sock)
            connection.close()


class _Connection:
    """One client's connection."""

    def __init__(
        self, engine: Engine, directories: list[str], sock: socket.socket, stop: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._directories = directories
        self._sock = sock
        self._stop = stop
        self._page: ClientPage | None = None
        self._told: dict[str, SourceSpec] = {}

    def run(self) -> None:
        credentials = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        _, uid, _ = _PEER.unpack(credentials)
        if uid not in (os.getuid(), 0):
            error = EngineError(f"this engine serves user {os.getuid()}, not user {uid}")
            wire.send(self._sock, wire.Failure.of(error))
            return
        while True:
            try:
                request = wire.receive_request(self._sock)
            except msgspec.MsgspecError as error:
                mismatch = EngineError(
                    f"the engine ({ioaccel.__version__}) does not understand this client: {error}; use the "
                    "same release of ioaccel in all processes"
                )
                wire.send(self._sock, wire.Failure.of(mismatch))
                return
            if isinstance(request, wire.Sourced):
                request = wire.complete(request, self._told)
            self._answer(request)

    def close(self) -> None:
        self._sock.close()
        if self._page is not None:
            self._engine.clients.leave(self._page)

    def _answer(self, request: wire.Request) -> None:
        descriptors: list[int] = []
        try:
            answer: wire.Answer = self._dispatch(request, descriptors)
        except Exception as error:
            if not isinstance(error, ioaccel.IOAccelError):
                log.exception("%s failed", type(request).__name__)
            answer = wire.Failure.of(as_ioaccel_error(error, type(request).__name__))
        try:
            wire.send(self._sock, answer, descriptors)
        finally:
            for fd in descriptors:
                os.close(fd)

    def _dispatch(self, request: wire.Request, descriptors: list[int]) -> wire.Answer:
        engine = self._engine
        match request:
            case wire.Fetch():
                return engine.fetch(request)
            case wire.Attach():
                return self._attach(request, descriptors)
            case wire.Join():
                if request.engine != engine.identity:
                    raise EngineError("this engine serves the directories now, and not the one you know")
                return wire.Done()
            case wire.Remap():
                descriptors.append(engine.index.index_fd())
                return wire.Remapped()
            case wire.Prefetch():
                return engine.prefetch(request)
            case wire.Stat():
                return engine.stat(request)
            case wire.ListDirectory():
                return engine.list_directory(request)
            case wire.Manifest():
                return engine.manifest(request)
            case wire.Residency():
                return engine.residency(request)
            case wire.Evict():
                return engine.evict(request)
            case wire.Post():
                engine.clients.session(request.session).post(request.board, request.note)
                return wire.Done()
            case wire.Collect():
                return wire.Notes(engine.clients.session(request.session).collect(request.board))
            case wire.Verify():
                return engine.verify(request)
            case wire.Usage():
                return engine.usage(request)
            case wire.Status():
                return wire.State(engine.status())
            case wire.Stop():
                self._stop()
                return wire.Done()

    def _attach(self, request: wire.Attach, descriptors: list[int]) -> wire.Answer:
        if request.protocol != wire.PROTOCOL:
            raise EngineError(
                f"the engine speaks protocol {wire.PROTOCOL} (ioaccel {ioaccel.__version__}), this client "
                f"{request.protocol}; use the same release of ioaccel in all processes"
            )
        if self._page is not None:
            raise EngineError("this connection is attached already")
        self._page, fds, readable = self._engine.attach(request.session)
        descriptors += fds
        return wire.Attached(
            wire.PROTOCOL,
            self._engine.identity,
            os.getpid(),
            ioaccel.__version__,
            self._directories,
            readable,
        )
