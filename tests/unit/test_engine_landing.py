"""The thread that ends small work: all that is there at once, and every piece once, whatever goes wrong."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from support import wait_for

from ioaccel.engine.landing import SMALL_BYTES, Lander, Landing


@pytest.fixture
def lander() -> Iterator[Lander]:
    lander = Lander()
    yield lander
    lander.close()
    if lander._thread is not None:
        lander._thread.join(5)
        assert not lander._thread.is_alive()


class Ends:
    """Ends work once it may; remembers what came together."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.began = threading.Event()
        self.batches: list[list[Any]] = []

    def __call__(self, batch: list[Any]) -> Sequence[Any]:
        self.batches.append(batch)
        self.began.set()
        assert self.may.wait(5)
        return [10 * what for what in batch]


def test_what_came_meanwhile_is_ended_together(lander: Lander) -> None:
    ends, done = Ends(), []
    assert lander.takes(Landing(ends, 0, 1), done.append)
    assert ends.began.wait(5)
    for n in range(1, 6):
        assert lander.takes(Landing(ends, n, 1), done.append)
    ends.may.set()
    wait_for(lambda: done == [0, 10, 20, 30, 40, 50])
    assert ends.batches == [[0], [1, 2, 3, 4, 5]]


def test_an_end_that_fails_is_told_to_its_own(lander: Lander) -> None:
    def fails(batch: list[Any]) -> Sequence[Any]:
        raise OSError("no")

    ends, done = Ends(), []
    lander.takes(Landing(ends, 0, 1), done.append)
    assert ends.began.wait(5)
    lander.takes(Landing(fails, 1, 1), done.append)
    lander.takes(Landing(fails, 2, 1), lambda _: 1 / 0)  # nor does this end the thread
    lander.takes(Landing(ends, 3, 1), done.append)
    ends.may.set()
    wait_for(lambda: len(done) == 3)
    assert (done[0], done[2]) == (0, 30)
    assert isinstance(done[1], OSError)


def test_what_was_taken_before_the_end_is_done(lander: Lander) -> None:
    ends, done = Ends(), []
    lander.takes(Landing(ends, 0, 1), done.append)
    assert ends.began.wait(5)
    lander.takes(Landing(ends, 1, 1), done.append)
    lander.close()
    ends.may.set()
    wait_for(lambda: done == [0, 10])


def test_large_work_and_too_much_of_it_is_left_to_others(lander: Lander) -> None:
    ends, done = Ends(), []
    assert not lander.takes(Landing(ends, 0, SMALL_BYTES + 1), done.append)
    taken = 0
    while lander.takes(Landing(ends, taken, 1), done.append):
        taken += 1
        assert taken < 1000
    assert taken >= 256
    ends.may.set()
    wait_for(lambda: len(done) == taken)
