"""How far a long task is: a bar on a terminal, else a line every few seconds. On stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ioaccel.cli.output import console, duration, size

LINE_SECONDS = 5.0
"""Between two plain lines: often enough to see that it lives, rarely enough for a log."""

_WINDOW_SECONDS = 15.0
"""The rate is that of the last seconds: what was cached already goes by at once and says nothing."""


class Pace:
    """What is done, how fast, and how long the rest will take. Any thread.

    ``unit`` is the plural of what is counted. A total of None is not known.
    """

    def __init__(
        self,
        unit: str,
        total: int | None = None,
        total_bytes: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._unit = unit
        self.total = total
        self._total_bytes = total_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self.count = 0
        self.bytes = 0
        self._started = clock()
        self._recent = deque([(self._started, 0, 0)])

    def add(self, count: int, size: int = 0) -> None:
        """Notes that ``count`` more are done, of ``size`` bytes together."""
        with self._lock:
            self.count += count
            self.bytes += size
            now = self._clock()
            self._recent.append((now, self.count, self.bytes))
            while len(self._recent) > 2 and now - self._recent[1][0] > _WINDOW_SECONDS:
                self._recent.popleft()

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._started

    def rates(self) -> tuple[float, float]:
        """Units and bytes a second, lately."""
        with self._lock:
            then, count, done = self._recent[0]
            seconds = max(self._clock() - then, 1e-3)
            return (self.count - count) / seconds, (self.bytes - done) / seconds

    def seconds_left(self) -> float | None:
        """At the present rate, by bytes where there are any to go by; None if that cannot be told."""
        units, speed = self.rates()
        if self._total_bytes and speed:
            return max(0.0, self._total_bytes - self.bytes) / speed
        if self.total is not None and units:
            return max(0, self.total - self.count) / units
        return None

    def __str__(self) -> str:
        """``512 of 10,000 objects, 56 MB, 45 MB/s, 409 objects/s, 23 s left``."""
        if self.total is None and not self.count:
            return duration(self.elapsed)
        units, speed = self.rates()
        of = f" of {self.total:,}" if self.total is not None else ""
        parts = [f"{self.count:,}{of} {self._unit}"]
        parts += [size(self.bytes), f"{size(speed)}/s"] if self.bytes else []
        parts.append(f"{units:,.0f} {self._unit}/s")
        left = self.seconds_left()
        return ", ".join([*parts, f"{duration(left)} left"] if left else parts)


@contextmanager
def shown(text: str, pace: Pace) -> Iterator[Pace]:
    """Shows ``pace`` under the heading ``text`` until the block is left."""
    with _bar(text, pace) if sys.stderr.isatty() else _lines(text, pace):
        yield pace


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Shows for how long the block has been going on."""
    with shown(text, Pace("steps")):
        yield


@contextmanager
def _bar(text: str, pace: Pace) -> Iterator[None]:
    from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TextColumn
    from rich.text import Text

    class PaceColumn(TextColumn):
        def render(self, task: Task) -> Text:
            # Drawn ten times a second by rich's thread, also while nothing is added.
            task.completed = pace.count
            return Text(str(pace))

    columns = [SpinnerColumn(), TextColumn("{task.description}", markup=False)]
    columns += [BarColumn()] if pace.total else []
    with Progress(*columns, PaceColumn(""), console=console(stderr=True), transient=True) as progress:
        progress.add_task(text, total=pace.total)
        yield


@contextmanager
def _lines(text: str, pace: Pace) -> Iterator[None]:
    done = threading.Event()

    def tell() -> None:
        while not done.wait(LINE_SECONDS):
            print(f"{text}: {pace}", file=sys.stderr, flush=True)

    teller = threading.Thread(target=tell, name="ioaccel-progress", daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
