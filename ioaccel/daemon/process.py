"""One engine process, from opening the directories to leaving them."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

import msgspec

from ioaccel import wire
from ioaccel.daemon.server import Server
from ioaccel.engine.engine import Engine
from ioaccel.engine.shard import Shard, open_shard
from ioaccel.errors import CacheBusyError, CacheDirectoryError, CacheFormatError

log = logging.getLogger("ioaccel.daemon")

# How long a thread may keep the interpreter from others that want it. Fetch threads give it up by
# themselves within a millisecond; Python's 5 ms had dozens of waiting ones wake up 200 times a second.
# Median of 9 rounds of `bench micro cold`, by turns on a busy machine: 0.97 of obstore, and not 0.73.
_SWITCH_SECONDS = 0.05

# Cycles are rare here, and while they are looked for, all threads wait: 700 new objects, which Python begins
# with, are those of ten blocks. This takes 5 to 10% of what a small object costs (docs/design/0003).
_COLLECT = (100_000, 50, 100)

# A place in the kernel's table of descriptors takes 8 bytes. As many as requests that a governor admits, the
# clients of a node with 8 GPUs, and as much again.
_DESCRIPTORS = 1024


class Settings(msgspec.Struct):
    """What an engine is started with."""

    directories: list[str]  # absolute, in the order that makes the first one hold the socket
    capacities: list[int | None]  # payload bytes a directory; None: as it was made
    report_fd: int | None = None
    sys_path: list[str] = []


def run_engine(
    settings: Settings,
    *,
    private: bool,
    ready: Callable[[], None],
    leaving: Callable[[], None] = lambda: None,
) -> NoReturn:
    """Serves the directories until stopped; a private engine, until the last client has left.

    Ends the process: with exit code 0, or 1 after an error that it has logged. ``ready`` is called once
    clients can connect, ``leaving`` when they no longer can. Raises CacheDirectoryError or a subclass if
    the directories cannot be served.
    """
    _forget_credentials()
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.set_threshold(*_COLLECT)
    _make_room_for_descriptors()
    shards = _open_shards(settings)
    engine = Engine(shards)
    socket_path = Path(settings.directories[0]) / wire.SOCKET
    try:
        server = Server(engine, settings.directories, private=private)
    except OSError as error:
        raise CacheDirectoryError(
            f"cannot make the socket {socket_path}: {error.strerror}; choose a cache directory on a local "
            "file system",
            url=str(socket_path),
        ) from error

    def stop(_signal: int, _frame: FrameType | None) -> None:
        server.stop()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    log.info("serving %s; %d blocks recovered", settings.directories, engine.recovered_blocks)
    try:
        ready()
    except BrokenPipeError:
        server.expect_nobody()  # who has called it is gone; another client may come
    code = 1
    try:
        server.run()
        code = 0
    except Exception:
        log.exception("the engine failed")
    finally:
        for leave in (leaving, socket_path.unlink):
            with contextlib.suppress(OSError):
                leave()
        log.info("leaving %s", settings.directories)
        # Fetch threads may be in the middle of a write: the process ends with the locks still held.
        logging.shutdown()
        os._exit(code)


def _forget_credentials() -> None:
    """Takes the stores' variables out of the environment, before there is any thread.

    Clients send what theirs say; the object client would mix it with what this process was started
    with.
    """
    for name in list(os.environ):
        if name.startswith(("AWS_", "GOOGLE_", "AZURE_")):
            del os.environ[name]


def _make_room_for_descriptors() -> None:
    """A client takes three descriptors, a request to a store one: the usual soft limit of 1024 is too low.

    The kernel's table of them grows by doubling. Before there are threads that is nothing; afterwards all
    that open a connection wait for it (for RCU), in the first requests of a job (docs/design/0005).
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.suppress(OSError), open(os.devnull, "rb") as some:
        os.close(fcntl.fcntl(some, fcntl.F_DUPFD_CLOEXEC, _DESCRIPTORS - 1))


def _open_shards(settings: Settings) -> list[Shard]:
    """Opens what can be opened: one bad disk costs its own blocks, not the job."""
    shards: list[Shard] = []
    failures: list[CacheDirectoryError] = []
    for directory, capacity in zip(settings.directories, settings.capacities, strict=True):
        try:
            shards.append(open_shard(len(shards), Path(directory), capacity, settings.directories))
        except (CacheBusyError, CacheFormatError):
            raise
        except CacheDirectoryError as error:
            failures.append(error)
    if not shards:
        raise failures[0]
    for failure in failures:
        log.warning("%s", failure)
    return shards
