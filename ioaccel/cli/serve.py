"""``ioaccel serve``: the engine in the foreground, for all processes of this user."""

from __future__ import annotations

import fcntl
import logging
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

from ioaccel.cli.options import CacheArguments, ConfigFile, Directories, Sizes

_LINGER_SECONDS = 3.0
"""For how long to wait until directories are free: a private engine leaves a second after its last client."""


def serve(cache_dir: Directories = None, cache_size: Sizes = None, config: ConfigFile = None) -> NoReturn:
    """Serve a cache to all processes of this user, until it is stopped.

    It is the engine that clients would start, in the foreground. They find it with ioaccel.connect(),
    without arguments or with the same directories. It logs to stderr. SIGINT and SIGTERM end it, with
    exit code 0.
    """
    from ioaccel.cli.runtime import RuntimeFile
    from ioaccel.daemon.process import Settings, run_engine

    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(message)s"
    )
    logging.captureWarnings(capture=True)
    file = RuntimeFile.claim()
    found = CacheArguments(cache_dir, cache_size, config=config).load(ask_daemon=False)
    directories = list(found.directories)
    _wait_until_free(directories)

    def ready() -> None:
        file.write(directories)
        logging.getLogger("ioaccel").info("ready: connect() of user %d finds this cache", os.getuid())

    run_engine(Settings(directories, list(found.capacities)), private=False, ready=ready, leaving=file.remove)


def _wait_until_free(directories: list[str]) -> None:
    """Returns when no engine holds any of the directories, or after a moment in any case."""
    deadline = time.monotonic() + _LINGER_SECONDS
    while any(map(_is_held, directories)) and time.monotonic() < deadline:
        time.sleep(0.1)


def _is_held(directory: str) -> bool:
    try:
        fd = os.open(Path(directory) / "engine.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
