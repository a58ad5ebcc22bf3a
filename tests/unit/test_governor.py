"""The governor finds how many requests a store is worth, in time for a short epoch."""

from __future__ import annotations

import heapq

import pytest

from ioaccel.sources.base import RetryableError
from ioaccel.sources.governor import FIRST_LIMIT, LARGEST_LIMIT, Governor


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run(governor: Governor, clock: Clock, seconds: float, latency: float, most: float) -> float:
    """Asks as much as the governor admits of a store with this latency, which serves ``most`` requests a
    second; the requests served a second."""
    ends: list[float] = []
    end, served, free_at = clock.now + seconds, 0, clock.now
    while clock.now < end:
        while len(ends) < int(governor.limit):
            assert governor._enter(end)
            free_at = max(free_at, clock.now) + 1 / most
            heapq.heappush(ends, max(clock.now + latency, free_at))
        clock.now = heapq.heappop(ends)
        governor._leave(clock.now - latency, 110_000, throttled=False, failed=False)
        served += 1
    for _ in ends:
        governor._leave(clock.now, 0, throttled=False, failed=True)
    return served / seconds


def test_a_slow_store_is_asked_for_more_within_a_second() -> None:
    clock = Clock()
    governor = Governor(clock=clock)
    assert run(governor, clock, 0.2, 0.04, 1e9) == pytest.approx(FIRST_LIMIT / 0.04, rel=0.3)
    run(governor, clock, 1.5, 0.04, 1e9)
    assert governor.limit == LARGEST_LIMIT


def test_a_store_that_serves_no_more_is_not_asked_for_more() -> None:
    """64 in flight bring all that there is, so it stays near them."""
    clock = Clock()
    governor = Governor(clock=clock)
    run(governor, clock, 5.0, 0.02, 3000)
    assert FIRST_LIMIT <= governor.limit <= 1.5 * FIRST_LIMIT


def test_a_job_that_asks_for_little_leaves_the_limit() -> None:
    clock = Clock()
    governor = Governor(clock=clock)
    for _ in range(1000):
        assert governor._enter(clock.now + 1)
        clock.now += 0.02
        governor._leave(clock.now - 0.02, 1000, throttled=False, failed=False)
    assert governor.limit == FIRST_LIMIT


def test_a_store_that_complains_is_asked_for_less() -> None:
    clock = Clock()
    governor = Governor(clock=clock, sleep=lambda _: None)
    answers = iter([RetryableError("503", throttled=True), "fine"])

    def request() -> str:
        clock.now += 0.02
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert governor.call("s3://b/k", request, 60.0) == "fine"
    assert governor.limit < FIRST_LIMIT
    assert (governor.retries, governor.throttled) == (1, 1)
    run(governor, clock, 10.0, 0.02, 1e9)
    assert governor.limit >= FIRST_LIMIT, "it does not come back"
