"""CPU time, memory and writes of all processes of an arm: workers, engines, mounts, whatever it starts.

They are known by a variable in their environment, which a process gets from who starts it, also when it
leaves the tree (an engine, a mount). Reading an environment is cheap, and done once a process.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from bench.measure import megabytes

MARK = "IOACCEL_BENCH_ARM"
# Seconds between looks; a peak of batches that come and go is met within a few. PSS takes the kernel a
# millisecond and more a process, an engine with its cache mapped much more: looks that followed each other
# in 0.2 s took 8% of two cores. So each is followed by 25 times the CPU that it took, up to some seconds:
# who is dear to look at must not be looked at so seldom that its peak is missed.
INTERVAL = 0.2
_PAUSE = 25
_PAUSE_MOST = 2.0
_JOIN_SECONDS = 30.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    """What an arm has used so far."""

    cpu_s: float
    written_bytes: int  # to disks, as the kernel counts them when pages are made dirty


class _Process(NamedTuple):
    pid: int
    started: str
    parent: int
    cpu_s: float  # with that of children that it has waited for
    written: int  # likewise


class Processes:
    """Watches the processes that have ``mark`` in their environment, until the ``with`` block ends."""

    def __init__(self, mark: str) -> None:
        self.environment = {MARK: mark}  # of whom to watch
        self._mark = f"{MARK}={mark}".encode()
        self._ours: dict[tuple[int, str], bool] = {}
        self._seen: dict[tuple[int, str], _Process] = {}
        self._lock = threading.Lock()
        self._stopped = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._peak_mb = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped = True
        self._wake.set()
        self._thread.join(_JOIN_SECONDS)
        if self._thread.is_alive():
            raise TimeoutError(f"no figures from /proc within {_JOIN_SECONDS} s")

    def begin(self) -> Usage:
        """Forgets the peak; what was used so far, to be taken off later."""
        self._peak_mb = 0.0
        self._wake.set()  # every epoch is looked at from its beginning on
        return self.usage()

    def usage(self) -> Usage:
        """What all of them have used so far, also those that have ended."""
        with self._lock:
            alive = self._look()
            # Who has ended is in its parent's figures, if that waited for it; else as it was seen last.
            pids = {process.pid for process in alive}
            orphans = [
                process
                for key, process in self._seen.items()
                if process.pid not in pids and not self._known(process.parent)
            ]
            every = alive + orphans
            return Usage(sum(p.cpu_s for p in every), sum(p.written for p in every))

    def alive(self) -> list[int]:
        """Their process ids now."""
        with self._lock:
            return [process.pid for process in self._look()]

    def wait(self, seconds: float) -> list[int]:
        """Waits until all have ended; who has not is returned."""
        deadline = time.monotonic() + seconds
        while (left := self.alive()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left

    def peak(self) -> float:
        """The most megabytes of all of them together since `begin`, looked at now and then: PSS, memfds."""
        self._weigh()  # an epoch may be over before the first look
        return self._peak_mb

    def _watch(self) -> None:
        pause = INTERVAL
        while True:
            self._wake.wait(pause)
            if self._stopped:
                return
            self._wake.clear()
            begun = time.thread_time()
            self._weigh()
            pause = min(max(INTERVAL, _PAUSE * (time.thread_time() - begun)), _PAUSE_MOST)

    def _weigh(self) -> None:
        with self._lock:
            alive = self._look()
        total = 0.0
        unmapped: dict[int, int] = {}
        for process in alive:
            with contextlib.suppress(OSError, StopIteration):  # it has just ended
                total += megabytes(process.pid)
                unmapped |= _unmapped(process.pid)
        total += sum(unmapped.values()) / 2**20
        self._peak_mb = max(self._peak_mb, total)

    def _known(self, pid: int) -> bool:
        return any(process.pid == pid for process in self._seen.values())

    def _look(self) -> list[_Process]:
        alive = []
        for entry in os.listdir("/proc"):
            if entry.isdigit() and (process := _read(int(entry))) and self._is_ours(process):
                self._seen[process.pid, process.started] = process
                alive.append(process)
        return alive

    def _is_ours(self, process: _Process) -> bool:
        key = process.pid, process.started
        if not self._ours.get(key):
            # Asked again while it is no: a fork has its parent's environment until it runs its program.
            try:
                self._ours[key] = self._mark in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
            except OSError:
                return False
        return self._ours[key]


def _unmapped(pid: int) -> dict[int, int]:
    """Bytes, by inode, of files in memory that a process has open and not mapped: no PSS counts them."""
    found = {}
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):  # it was closed meanwhile
            if os.readlink(entry).startswith("/memfd:"):
                about = os.stat(entry)
                found[about.st_ino] = about.st_blocks * 512
    if found:
        maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
        for inode in {int(line.split()[4]) for line in maps if "/memfd:" in line}:
            found.pop(inode, None)
    return found


def _read(pid: int) -> _Process | None:
    """What the kernel says about a process; None if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if stat[0] == "Z":
            return None
        counters = Path(f"/proc/{pid}/io").read_text()
    except (OSError, UnicodeDecodeError):
        return None
    written = next(int(line.split()[1]) for line in counters.splitlines() if line.startswith("write_bytes"))
    return _Process(pid, stat[19], int(stat[1]), sum(map(int, stat[11:15])) / _TICKS, written)
