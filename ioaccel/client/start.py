"""Finding the engine that serves a set of directories, or starting a private one."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ioaccel import wire
from ioaccel.errors import CacheBusyError, EngineError

# A start takes 0.2 s, and on a cold disk as long again for the headers of every 10 GB of blocks.
START_SECONDS = 120.0

# How long to go on when another engine holds the directories and does not listen: it is starting,
# or leaving.
_BUSY_SECONDS = 10.0
_PAUSE_SECONDS = 0.05

# The log of a private engine is begun anew when it has grown to this.
_LOG_BYTES = 1 << 20


def dial(directories: Sequence[str]) -> socket.socket | None:
    """A connection to the engine that listens in the first directory, if one does."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(START_SECONDS)
    try:
        with wire.short_path(Path(directories[0]) / wire.SOCKET) as address:
            sock.connect(address)
    except OSError:
        sock.close()
        return None
    return sock


def reach(directories: Sequence[str], capacities: Sequence[int | None]) -> socket.socket:
    """A connection to the engine of these directories, which is started if there is none.

    Raises what the engine says when it cannot start (CacheDirectoryError and its kin), or
    EngineError when it says nothing in time.
    """
    deadline = time.monotonic() + START_SECONDS
    busy_until = time.monotonic() + _BUSY_SECONDS
    while True:
        sock = dial(directories)
        if sock is not None:
            return sock
        try:
            _start(directories, capacities, deadline)
        except CacheBusyError as error:
            # Its holder may have taken the lock just now, and not yet have written what it serves.
            time.sleep(_PAUSE_SECONDS)
            if _served_with(error.url) not in (None, list(directories)) or time.monotonic() > busy_until:
                raise
        else:
            if time.monotonic() > deadline:
                raise EngineError(
                    f"the engine for {', '.join(directories)} started and does not answer; see "
                    f"{directories[0]}/engine.log"
                )


def _served_with(directory: str | None) -> list[str] | None:
    """The directories that the holder of a directory's lock serves."""
    try:
        served = json.loads((Path(directory or "") / "engine.lock").read_text())["directories"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return list(served)


def _start(directories: Sequence[str], capacities: Sequence[int | None], deadline: float) -> None:
    """Starts a private engine and waits until it listens; raises what it reports instead."""
    process: subprocess.Popen[bytes] | None = None
    reader, writer = os.pipe()
    settings = {
        "directories": list(directories),
        "capacities": list(capacities),
        "report_fd": writer,
        "sys_path": sys.path,
    }
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
    try:
        with _log(directories[0]) as log:
            # -P: the working directory is no place to import from. The process forks once more, so
            # it is nobody's child, and no user's wait() ever meets it.
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ioaccel.daemon", json.dumps(settings)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={**os.environ, "PYTHONPATH": path},
                pass_fds=[writer],
                start_new_session=True,
            )
        os.close(writer)
        writer = -1
        report = _read_line(reader, deadline)
        process.wait(max(1.0, deadline - time.monotonic()))
    except OSError as error:
        raise EngineError(f"cannot start the engine: {error}") from error
    except subprocess.TimeoutExpired as error:
        assert process is not None
        process.kill()
        raise EngineError(f"the engine for {', '.join(directories)} did not start in time") from error
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    if not report:
        raise EngineError(
            f"the engine for {', '.join(directories)} ended before it listened: {_last_words(directories[0])}"
        )
    said = json.loads(report)
    if "pid" not in said:
        raise wire.Failure(**said).error()


def _read_line(fd: int, deadline: float) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        piece = os.read(fd, 65536) if ready else b""
        if not piece:
            break
        data += piece
    return data


@contextlib.contextmanager
def _log(directory: str) -> Iterator[int]:
    """Where a private engine's messages go; nowhere, if the directory cannot hold them."""
    path = Path(directory) / "engine.log"
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        fresh = not path.exists() or path.stat().st_size > _LOG_BYTES
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if fresh else 0), 0o600)
    except OSError:
        fd = os.open(os.devnull, os.O_WRONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def _last_words(directory: str) -> str:
    try:
        lines = (Path(directory) / "engine.log").read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else "it left no message"
