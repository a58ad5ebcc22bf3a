"""The threads that fetch: no work is left lying while the limit moves up and down."""

from __future__ import annotations

import threading
import time

import pytest

from ioaccel.engine.flights import Flights, Latch
from ioaccel.sources.governor import Governor


@pytest.fixture
def governor() -> Governor:
    return Governor()


def run(flights: Flights, governor: Governor, count: int, seconds: float) -> bool:
    """Whether so many pieces of work, each as long as that, were all done in 5 seconds."""
    latch = Latch()
    for n in range(count):
        flights.start(("work", time.monotonic(), n), lambda: time.sleep(seconds), latch, governor=governor)
    return latch.wait(5)


def test_idle_threads_that_are_too_many_pass_the_work_on(governor: Governor) -> None:
    flights = Flights()
    assert run(flights, governor, 30, 0.05)
    governor.limit = 4
    assert run(flights, governor, 1, 0)
    assert run(flights, governor, 30, 0)
    flights.close()


def test_work_that_comes_together_runs_together(governor: Governor) -> None:
    flights = Flights()
    assert run(flights, governor, 2, 0.05)  # leaves two idle threads
    began = time.monotonic()
    assert run(flights, governor, 8, 0.3)
    assert time.monotonic() - began < 0.55
    flights.close()


def test_the_limit_moves_all_the_time(governor: Governor) -> None:
    flights, stop = Flights(), threading.Event()

    def move() -> None:
        while not stop.wait(0.001):
            governor.limit = 4 if governor.limit > 4 else 64

    mover = threading.Thread(target=move)
    mover.start()
    try:
        for n in range(40):
            assert run(flights, governor, 1 + n, 0.001)
    finally:
        stop.set()
        mover.join()
    flights.close()
