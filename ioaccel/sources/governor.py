"""How hard a store is asked: concurrency, retries, deadlines. One governor an endpoint.

Concurrency is found, not configured. It grows by a step while more requests in flight bring more
bytes (additive increase), goes back a step when they only wait longer, and is cut by a third when
the store says that it is too much (429, 503) or stops answering (multiplicative decrease; AIMD after
Chiu and Jain, 1989). Only such an answer takes it below where it began: a slow second is no reason.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from ioaccel.errors import StoreError, StoreTimeoutError
from ioaccel.sources.base import RetryableError

T = TypeVar("T")

# Where the search begins and ends. 64 x 110 KB in 20 ms is 350 MB/s; 256 x 4 MiB is a GiB of memory.
FIRST_LIMIT = 64
SMALLEST_LIMIT = 4
LARGEST_LIMIT = 256
_STEP = 8
_CUT = 0.7

# A window is long enough to see a trend and short enough to react in a few seconds.
_WINDOW_SECONDS = 1.0
# What counts as more bytes, or as longer waits: above the noise of a busy link.
_GAIN = 1.05
_SLOWER = 1.2
# One cut a second: the requests in flight when the store complains all get the same answer.
_CUT_PAUSE = 1.0

# Eight attempts with full jitter up to 5 s each last 15 s on average: longer than the 503 storms of
# a bucket that is splitting its partitions, shorter than a user's patience.
ATTEMPTS = 8
_FIRST_DELAY = 0.1
_LONGEST_DELAY = 5.0


class Governor:
    """Admits requests to one endpoint and repeats those that are worth it. Any thread."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._free = threading.Condition()
        self._in_flight = 0
        self.limit = float(FIRST_LIMIT)
        self._window_start = clock()
        self._window_bytes = 0
        self._window_seconds = 0.0  # latencies, summed
        self._window_count = 0
        self._waited = False  # somebody wanted more than the limit in this window
        self._last_rate = 0.0
        self._last_latency = 0.0
        self._last_cut = -_CUT_PAUSE
        self.requests = 0
        self.bytes = 0
        self.retries = 0
        self.throttled = 0

    def call(
        self,
        url: str,
        request: Callable[[], T],
        deadline: float,
        *,
        size_of: Callable[[T], int] = lambda _: 0,
        range: tuple[int, int] | None = None,
    ) -> T:
        """Runs ``request`` until it succeeds, fails for good, or ``deadline`` (monotonic) is near.

        Raises what ``request`` raises for good, or StoreError with the number of attempts.
        """
        begun = self._clock()
        attempt = 0
        while True:
            attempt += 1
            if not self._enter(deadline):
                raise self._give_up(url, range, attempt - 1, begun, "no free connection in time", True)
            started = self._clock()
            try:
                result = request()
            except RetryableError as error:
                self._leave(started, 0, throttled=error.throttled or error.timed_out, failed=True)
                delay = self._jitter() * min(_LONGEST_DELAY, _FIRST_DELAY * 2**attempt)
                late = self._clock() + delay > deadline
                if attempt >= ATTEMPTS or late:
                    raise self._give_up(
                        url, range, attempt, begun, str(error), late or error.timed_out
                    ) from error
                self._sleep(delay)
            except BaseException:
                self._leave(started, 0, throttled=False, failed=False)
                raise
            else:
                self._leave(started, size_of(result), throttled=False, failed=False)
                return result

    def _give_up(
        self,
        url: str,
        range: tuple[int, int] | None,
        attempts: int,
        begun: float,
        why: str,
        timed_out: bool,
    ) -> StoreError:
        kind = StoreTimeoutError if timed_out else StoreError
        return kind(
            f"{url}: {why}; check that the store is reachable and not overloaded",
            url=url,
            range=range,
            attempts=attempts,
            elapsed=self._clock() - begun,
        )

    def _enter(self, deadline: float) -> bool:
        with self._free:
            while self._in_flight >= int(self.limit):
                self._waited = True
                left = deadline - self._clock()
                if left <= 0 or not self._free.wait(min(left, 1.0)):
                    if self._clock() >= deadline:
                        return False
            self._in_flight += 1
            self.requests += 1
            return True

    def _leave(self, started: float, size: int, *, throttled: bool, failed: bool) -> None:
        now = self._clock()
        with self._free:
            self._in_flight -= 1
            self.bytes += size
            self.retries += failed
            self.throttled += throttled
            if throttled and now - self._last_cut >= _CUT_PAUSE:
                self.limit = max(SMALLEST_LIMIT, self.limit * _CUT)
                self._last_cut = now
                self._new_window(now)
            elif not failed:
                self._window_bytes += size
                self._window_seconds += now - started
                self._window_count += 1
                if now - self._window_start >= _WINDOW_SECONDS:
                    self._adjust(now)
            self._free.notify()

    def _adjust(self, now: float) -> None:
        """Compares the window that ends with the one before it; the caller holds the lock."""
        rate = self._window_bytes / (now - self._window_start)
        latency = self._window_seconds / self._window_count
        if self._waited:
            if rate > self._last_rate * _GAIN or self.limit < FIRST_LIMIT:
                self.limit = min(LARGEST_LIMIT, self.limit + _STEP)
            elif latency > self._last_latency * _SLOWER:
                self.limit = max(FIRST_LIMIT, self.limit - _STEP)
        self._last_rate, self._last_latency = rate, latency
        self._new_window(now)

    def _new_window(self, now: float) -> None:
        self._window_start = now
        self._window_bytes = self._window_count = 0
        self._window_seconds = 0.0
        self._waited = False
