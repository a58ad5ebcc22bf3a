"""One process's connections to its engine: a control connection, and a pool for requests.

Everything here belongs to one process id. After a fork the child closes what it inherited and
makes its own.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from ioaccel import wire
from ioaccel._core._client import View
from ioaccel.client.start import dial, reach
from ioaccel.errors import CacheBusyError, EngineError
from ioaccel.sources import SourceSpec

# What an answer may take beyond the deadline that the engine was given.
_GRACE_SECONDS = 10.0

# How long to go on when an engine hangs up before it has answered.
_ATTACH_SECONDS = 10.0

# Connections that wait for the next request; more threads than this make new ones.
_POOL = 16


class EngineLost(Exception):
    """The engine is gone, or does not answer."""


class _Line(NamedTuple):
    """A connection, and the sources that the engine was told over it."""

    sock: socket.socket
    told: dict[str, SourceSpec]


class Link:
    """An attached client. Any thread of one process."""

    def __init__(self, directories: Sequence[str], capacities: Sequence[int | None], session: str) -> None:
        self.pid = os.getpid()
        self._directories = list(directories)
        self._lock = threading.Lock()
        self._idle: list[_Line] = []
        self._closed = False
        deadline = time.monotonic() + _ATTACH_SECONDS
        while True:
            self._control = reach(self._directories, capacities)
            try:
                self._engine, self.engine_pid, self.view = self._attach(session)
            except EngineLost as error:
                # Met as it left or died; its successor is a moment away.
                self._control.close()
                if time.monotonic() > deadline:
                    raise EngineError(f"the engine of {self._directories[0]} hung up: {error}") from error
                time.sleep(0.05)
            except BaseException:
                self._control.close()
                raise
            else:
                return

    def _attach(self, session: str) -> tuple[str, int, View]:
        answer, fds = self._ask(_Line(self._control, {}), wire.Attach(wire.PROTOCOL, self.pid, session), 30.0)
        if isinstance(answer, wire.Failure):
            raise answer.error()
        if not isinstance(answer, wire.Attached):
            raise EngineError(f"the engine of {self._directories[0]} gave a wrong answer to Attach")
        view = _view(fds, answer.shards)
        if answer.directories != self._directories:
            raise CacheBusyError(
                f"the cache directory {self._directories[0]} is served by engine {answer.engine_pid} "
                f"together with {answer.directories}; connect with exactly those directories, or stop "
                "that engine first",
                url=self._directories[0],
            )
        return answer.engine, answer.engine_pid, view

    def request(self, message: wire.Message, timeout: float) -> wire.Answer:
        """The engine's answer. EngineLost if it is gone; IOAccelError if that is the answer."""
        return self._request(message, timeout)[0]

    def remap(self) -> None:
        """Goes over to the engine's new index; EngineLost if the engine is gone."""
        _, fds = self._request(wire.Remap(), 30.0)
        if len(fds) != 1:
            raise EngineLost("no descriptor of the index came")
        self.view.remap(fds[0])

    def _request(self, message: wire.Message, timeout: float) -> tuple[wire.Answer, list[int]]:
        with self._lock:
            line = self._idle.pop() if self._idle else None
        if line is None:
            line = self._join()
        try:
            answer, fds = self._ask(line, message, timeout)
        except BaseException:
            line.sock.close()
            raise
        with self._lock:
            kept = len(self._idle) < _POOL
            if kept:
                self._idle.append(line)
        if not kept:
            line.sock.close()
        if self._closed:  # meanwhile, by another thread
            self.close()
        if isinstance(answer, wire.Failure):
            raise answer.error()
        return answer, fds

    def _join(self) -> _Line:
        """One more connection to the same engine. EngineLost if another listens there, or none."""
        sock = dial(self._directories)
        if sock is None:
            raise EngineLost("the engine does not listen any more")
        try:
            line = _Line(sock, {})
            answer, _ = self._ask(line, wire.Join(self._engine), 30.0)
            if not isinstance(answer, wire.Done):
                raise EngineLost("another engine serves the directories by now")
        except BaseException:
            sock.close()
            raise
        return line

    def _ask(self, line: _Line, message: wire.Message, timeout: float) -> tuple[wire.Answer, list[int]]:
        line.sock.settimeout(timeout + _GRACE_SECONDS)
        try:
            if isinstance(message, wire.Sourced):
                wire.send(line.sock, wire.shorten(message, line.told))
                line.told.update(message.sources)
            else:
                wire.send(line.sock, message)
            return wire.receive_answer(line.sock)
        except msgspec.MsgspecError as error:
            raise EngineError(
                f"the engine of {self._directories[0]} is of another release ({error}); use the same release "
                "of ioaccel in all processes"
            ) from error
        except (wire.Disconnected, OSError) as error:
            raise EngineLost(str(error) or type(error).__name__) from error

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # not all was made
            self.close()

    def close(self) -> None:
        """Hangs up. To be called in the process that made the link, or in a child that inherited it."""
        self._closed = True
        self._control.close()
        while self._idle:
            with contextlib.suppress(IndexError):  # another thread was faster
                self._idle.pop().sock.close()


def _view(fds: list[int], shards: list[bool]) -> View:
    if len(fds) != 3 + sum(shards):
        for fd in fds:
            os.close(fd)
        raise EngineLost(f"{len(fds)} descriptors came instead of {3 + sum(shards)}")
    control, index, page, *rest = fds
    opened = iter(rest)
    return View(control, index, page, [next(opened) if there else -1 for there in shards])


class Backoff:
    """When to try the next time to reach an engine: at once, then after 1, 2, 4 ... 30 s."""

    FIRST, LONGEST = 1.0, 30.0

    def __init__(self) -> None:
        self._delay = 0.0
        self._next = 0.0

    def ready(self) -> bool:
        return time.monotonic() >= self._next

    def failed(self) -> None:
        self._delay = min(self.LONGEST, self._delay * 2) or self.FIRST
        self._next = time.monotonic() + self._delay

    def worked(self) -> None:
        self._delay = self._next = 0.0
