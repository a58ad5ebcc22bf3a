"""A cache for as long as a measurement lasts."""

from __future__ import annotations

import fcntl
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ioaccel import Cache

ENGINE_LEAVES_S = 10.0
"""Seconds that a private engine has to leave after its last client; it takes one."""

ENGINE_STARTS_S = 3.0
"""Seconds after which one that has no lock yet is taken to have failed; a start takes 0.2."""


@contextmanager
def cache_in(
    directory: Path | None, size: str | int, storage_options: Mapping[str, object] | None
) -> Iterator[Cache]:
    """A cache in the directory asked for, or, if it is None, in a temporary one."""
    import ioaccel

    with ExitStack() as stack:
        where = directory or stack.enter_context(temporary_directory())
        with ioaccel.connect(where, size, storage_options) as cache:
            yield cache


@contextmanager
def temporary_directory(place: Path | None = None) -> Iterator[Path]:
    """A cache directory, in ``place``, that is removed once its engine, which outlives its clients for a
    moment, is gone."""
    with tempfile.TemporaryDirectory(prefix="ioaccel-scratch-", dir=place) as name:
        directory = Path(name)
        lock, begun = directory / "engine.lock", directory / "engine.log"
        try:
            yield directory
        except (KeyboardInterrupt, SystemExit):
            # An engine that was called and is still starting would make files while they are removed.
            deadline = time.monotonic() + ENGINE_STARTS_S
            while begun.exists() and not lock.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            raise
        finally:
            _wait_for_engine(lock)


def _wait_for_engine(path: Path) -> None:
    """Return when no process holds the lock that an engine holds for its life, or after ENGINE_LEAVES_S."""
    deadline = time.monotonic() + ENGINE_LEAVES_S
    with suppress(FileNotFoundError), path.open() as lock:
        while time.monotonic() < deadline:
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(0.05)
