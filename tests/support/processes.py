"""Processes that tests start, watch and kill."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ioaccel import Cache

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]


def wait_for(what: Callable[[], T], seconds: float = 10.0) -> T:
    """What ``what`` gives once that is true. AssertionError if it does not become so in time."""
    deadline = time.monotonic() + seconds
    while not (got := what()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        time.sleep(0.01)
    return got


def gone(pid: int) -> bool:
    """Whether a process has ended, with all its threads; it may still wait for its parent to take note."""
    process = Path(f"/proc/{pid}")
    try:
        state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        # The first thread is a zombie before the others have ended: one of them owns an engine's index.
        threads = len(list((process / "task").iterdir()))
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX" and threads == 1


def kill_engine(cache: Cache) -> dict[str, Any]:
    """Ends the engine with SIGKILL; its last status."""
    return _end_engine(cache, signal.SIGKILL)


def stop_engine(cache: Cache) -> dict[str, Any]:
    """Ends the engine with SIGTERM; its last status."""
    return _end_engine(cache, signal.SIGTERM)


def _end_engine(cache: Cache, number: int) -> dict[str, Any]:
    status = cache.status()
    os.kill(status["engine_pid"], number)
    wait_for(lambda: gone(status["engine_pid"]))
    return status


@contextlib.contextmanager
def started(command: Sequence[object], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A new process, with `subprocess.Popen`'s options. It is killed at the block's end, if it still runs."""
    with subprocess.Popen(list(map(str, command)), text=True, **options) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def python(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A new Python process that runs ``code``, with ``arguments`` in its ``sys.argv[1:]``.

    What it prints is piped. It is killed at the end of the block, if it still runs then.
    """
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    with started(command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE) as process:
        yield process


def run_python(code: str, *arguments: object, seconds: float = 30.0) -> str:
    """What such a process prints. It must succeed, in time."""
    with python(code, *arguments) as process:
        output, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0
    return output


def open_descriptors(pid: int | str = "self") -> int:
    """How many descriptors a process has open, but for its connections to stores, which are pooled."""
    tcp = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    pooled = {f"socket:[{line.split()[9]}]" for line in tcp}
    count = 0
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(fd) not in pooled
    return count


def resident_bytes(pid: int | str = "self") -> int:
    """Private memory of a process, in RAM."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("Private_", "Swap:")))
