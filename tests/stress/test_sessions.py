"""What a session reads is noted by many threads at once, while others ask about it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from ioaccel.engine.sessions import Session

THREADS, URLS = 6, 700


@pytest.fixture
def impatient() -> Iterator[None]:
    """Threads take turns as often as Python can have them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("impatient")
def test_many_ask_at_once() -> None:
    session, failures, begin = Session("x"), [], threading.Barrier(THREADS + 1)

    def ask(thread: int) -> None:
        begin.wait(10)
        for n in range(URLS):
            session.asked(f"s3://bucket-{n}/part/{thread}/x")

    def look() -> None:
        begin.wait(10)
        try:
            while any(thread.is_alive() for thread in threads):
                session.reads_below("s3://bucket-nobody/reads/x")
        except RuntimeError as error:  # a dictionary that changed while it was walked through
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(THREADS)]
    looking = threading.Thread(target=look)
    for thread in (*threads, looking):
        thread.start()
    for thread in (*threads, looking):
        thread.join(30)
    assert not failures
    assert session.blocks_asked == THREADS * URLS
    # All that was asked for counts, whichever thread asked: the roots are what all their URLs share.
    for n in range(URLS):
        assert all(session.reads_below(f"s3://bucket-{n}/part/{thread}/y") for thread in range(THREADS))
    assert not session.reads_below("s3://bucket-nobody/reads/x")
