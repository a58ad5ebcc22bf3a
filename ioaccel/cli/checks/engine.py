"""Whether an engine starts here, serves, and is missed when it dies."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from ioaccel.cli.checks.finding import Finding, ok, problem
from ioaccel.errors import IOAccelError

_CACHE_BYTES = 16 << 20
_OBJECT_BYTES = 1 << 20

# The kernel marks the owner word while the process ends: milliseconds.
_DEATH_SECONDS = 5.0


def check_engine() -> Iterator[Finding]:
    """Starts a private engine in a temporary directory, reads a file through it, and kills it."""
    directory = Path(tempfile.mkdtemp(prefix="ioaccel-doctor-"))
    try:
        yield from _check(directory)
    except (IOAccelError, OSError) as error:
        yield problem("engine", f"does not work: {error}", "report this with all that doctor says")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _check(directory: Path) -> Iterator[Finding]:
    from ioaccel.client.cache import connect
    from ioaccel.client.link import Link

    file = directory / "object"
    data = os.urandom(_OBJECT_BYTES)
    file.write_bytes(data)
    cache_dir = directory / "cache"
    begun = time.monotonic()
    with connect(cache_dir, _CACHE_BYTES) as cache:
        started = time.monotonic() - begun
        right = all(cache.read(f"file://{file}") == data for _ in range(2))
        hits = cache.status()["hits"]
        link = Link([os.path.realpath(cache_dir)], [_CACHE_BYTES], uuid.uuid4().hex)
    with contextlib.closing(link):
        alive = link.view.alive
        os.kill(link.engine_pid, signal.SIGKILL)
        deadline = time.monotonic() + _DEATH_SECONDS
        while link.view.alive and time.monotonic() < deadline:
            time.sleep(0.005)
        missed = alive and not link.view.alive
    if not right or not hits:
        yield problem("engine", "what was read is wrong, or was not cached", "report this")
        return
    yield ok(
        "engine", f"starts in {started:.1f} s, and serves from its cache", start_seconds=round(started, 3)
    )
    if not missed:
        yield problem(
            "robust futex", "a killed engine is not noticed", "report this; a sandbox may emulate the kernel"
        )
        return
    yield ok("robust futex", "a killed engine is noticed at once")
