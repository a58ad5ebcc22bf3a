"""How hard a store is asked: concurrency, retries, deadlines. One governor an endpoint.

Concurrency is found, not configured. It grows by half at a time until that does not bring more bytes
(slow start), then by a step while it does (additive increase), goes back a step when requests only wait
longer, and is cut by a third when the store says that it is too much (429, 503) or stops answering
(multiplicative decrease; AIMD after Chiu and Jain, 1989). Only such an answer takes it below where it
began: a slow second is no reason.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from ioaccel.errors import StoreError, StoreTimeoutError
from ioaccel.sources.base import CHECK_THE_STORE, RetryableError

T = TypeVar("T")

# Hedging (Dean and Barroso, "The Tail at Scale", 2013): a request that has taken three times what
# 95% of the last ones took is asked once more, on at most 0.5% of all requests, so that a store that
# is slow as a whole is not asked for more, and what objects of like size take stays within 1% of what it was.
_HEDGE_QUANTILE, _HEDGE_FACTOR, _HEDGE_SHARE = 0.95, 3.0, 0.005
_HEDGE_SAMPLES = 256
_HEDGE_FLOOR = 0.2  # seconds; below, prefetch hides it, and a busy machine is as slow without any store
_HEDGE_PAUSE = 10.0  # seconds without hedges after a store complained

# Where the search begins and ends. 64 x 110 KB in 20 ms is 350 MB/s; 256 x 4 MiB is a GiB of memory.
FIRST_LIMIT = 64
SMALLEST_LIMIT = 4
LARGEST_LIMIT = 256
_START = 1.5
_STEP = 8
_CUT = 0.7

# A window is long enough to see a trend, in time and in requests, and short enough to find the limit of
# a store in the first second: an epoch may be over after three.
_WINDOW_SECONDS = 0.25
_WINDOW_REQUESTS = 64
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


# Of our own: in a training process the global one is the program's.
_random = random.Random()


class Governor:
    """Admits requests to one endpoint and repeats those that are worth it. Any thread."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = _random.random,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._lock = threading.Lock()
        self._free = threading.Condition(self._lock)
        self._waiting = 0  # threads that want to enter; nobody is notified in vain
        self._in_flight = 0
        self.limit = float(FIRST_LIMIT)
        self._window_start = clock()
        self._window_bytes = 0
        self._window_seconds = 0.0  # latencies, summed
        self._window_count = 0
        self._full = False  # the limit was reached in this window
        self._starting = True
        self._last_rate = 0.0
        self._last_latency = 0.0
        self._last_cut = -_CUT_PAUSE
        self._latencies: deque[float] = deque(maxlen=_HEDGE_SAMPLES)
        self._slow_after: float | None = None
        self.hedges = 0
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

    def slow_after(self) -> float | None:
        """Seconds after which a request is worth another; None if that is not known, or not wise."""
        with self._lock:
            if len(self._latencies) < _HEDGE_SAMPLES or self._clock() - self._last_cut < _HEDGE_PAUSE:
                return None
            if self._slow_after is None:
                ranked = sorted(self._latencies)
                typical = ranked[int(len(ranked) * _HEDGE_QUANTILE)]
                self._slow_after = max(_HEDGE_FLOOR, typical * _HEDGE_FACTOR)
            return self._slow_after

    def may_hedge(self) -> bool:
        """Whether the budget allows another request; it is taken from the budget."""
        with self._lock:
            if self.hedges + 1 > self.requests * _HEDGE_SHARE:
                return False
            self.hedges += 1
            return True

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
        what = why if why.startswith(url) else f"{url}: {why}"
        return kind(
            f"{what}; {CHECK_THE_STORE}",
            url=url,
            range=range,
            attempts=attempts,
            elapsed=self._clock() - begun,
        )

    def _enter(self, deadline: float) -> bool:
        with self._lock:
            while self._in_flight >= int(self.limit):
                left = deadline - self._clock()
                if left <= 0:
                    return False
                self._waiting += 1
                self._free.wait(min(left, 1.0))
                self._waiting -= 1
            self._in_flight += 1
            self._full = self._full or self._in_flight >= int(self.limit)
            self.requests += 1
            return True

    def _leave(self, started: float, size: int, *, throttled: bool, failed: bool) -> None:
        now = self._clock()
        with self._lock:
            self._in_flight -= 1
            self.bytes += size
            self.retries += failed
            self.throttled += throttled
            if throttled and now - self._last_cut >= _CUT_PAUSE:
                self.limit = max(SMALLEST_LIMIT, self.limit * _CUT)
                self._last_cut = now
                self._starting = False
                self._new_window(now)
            elif not failed:
                self._latencies.append(now - started)
                self._window_bytes += size
                self._window_seconds += now - started
                self._window_count += 1
                if now - self._window_start >= _WINDOW_SECONDS and self._window_count >= _WINDOW_REQUESTS:
                    self._adjust(now)
            if self._waiting:
                self._free.notify()

    def _adjust(self, now: float) -> None:
        """Compares the window that ends with the one before it; the caller holds the lock."""
        self._slow_after = None
        if self._window_bytes == 0:  # answers without contents tell nothing of what the store can bring
            self._new_window(now)
            return
        rate = self._window_bytes / (now - self._window_start)
        latency = self._window_seconds / self._window_count
        if self.limit >= LARGEST_LIMIT:
            self._starting = False  # the last step was worth it, as far as anybody can tell
        if self._full:
            if rate > self._last_rate * _GAIN or self.limit < FIRST_LIMIT:
                more = self.limit * (_START - 1) if self._starting else _STEP
                self.limit = min(LARGEST_LIMIT, self.limit + more)
            elif self._starting:
                self.limit = max(FIRST_LIMIT, self.limit / _START)
                self._starting = False
            elif latency > self._last_latency * _SLOWER:
                self.limit = max(FIRST_LIMIT, self.limit - _STEP)
        self._last_rate, self._last_latency = rate, latency
        self._new_window(now)

    def _new_window(self, now: float) -> None:
        self._window_start = now
        self._window_bytes = self._window_count = 0
        self._window_seconds = 0.0
        self._full = False
