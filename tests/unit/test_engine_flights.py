"""Flights, and who waits for them."""

from __future__ import annotations

import threading
import time

from ioaccel.engine.flights import Flights, Latch


def test_a_flight_that_gives_up_at_its_deadline_tells_why() -> None:
    flights, latch = Flights(), Latch()
    deadline = time.monotonic() + 0.1

    def refused() -> None:
        time.sleep(max(0.0, deadline - time.monotonic()))
        raise ConnectionRefusedError

    flight = flights.start("key", refused, latch)
    assert latch.wait_until(deadline)
    assert isinstance(flight.error, ConnectionRefusedError)
    flights.close()


def test_a_flight_that_hangs_is_not_waited_for() -> None:
    flights, latch, end = Flights(), Latch(), threading.Event()
    flight = flights.start("key", end.wait, latch)
    began = time.monotonic()
    assert not latch.wait_until(began + 0.1)
    assert 0.1 <= time.monotonic() - began < 5
    assert not flight.done
    end.set()
    flights.close()
