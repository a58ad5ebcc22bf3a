"""Work in threads: results in order, errors in their places, and no thread left when it is dropped."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ioaccel.torch.threads import InThreads


def in_threads(
    work: Callable[[Any], Any],
    items: Any = range(20),
    timeout: float = 0,
    init: Callable[[int], None] | None = None,
) -> InThreads:
    return InThreads(work, iter(items), 3, 6, timeout, init)


@pytest.fixture
def without_collection() -> Iterator[None]:
    """What is left in a circle stays."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.fixture
def threads_end(without_collection: None) -> Iterator[None]:
    """The test's own threads end with it, and need no garbage collection for that."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 10
    while left := set(threading.enumerate()) - before:
        assert time.monotonic() < deadline, f"{left} are left"
        time.sleep(0.01)


def fails_at_5(item: int) -> int:
    if item == 5:
        raise LookupError(f"item {item}")
    return item * 2


def message_of_failure(results: Iterator[Any]) -> str:
    """Not by `pytest.raises`, whose record of an error is a circle itself."""
    try:
        next(results)
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"
    return "none"


@pytest.mark.usefixtures("threads_end")
class TestInThreads:
    def test_results_come_in_the_order_of_the_items(self) -> None:
        def slow_first(item: int) -> int:
            time.sleep(0.002 * (item % 3 == 0))
            return item * 2

        assert list(in_threads(slow_first)) == [2 * item for item in range(20)]

    def test_an_error_comes_in_its_place_and_ends_nothing(self) -> None:
        results = in_threads(fails_at_5)
        assert [next(results) for _ in range(5)] == [0, 2, 4, 6, 8]
        assert message_of_failure(results) == "LookupError: item 5"
        assert list(results) == [2 * item for item in range(6, 20)]

    def test_dropped_in_the_middle(self) -> None:
        assert next(in_threads(fails_at_5)) == 0

    def test_dropped_after_an_error(self) -> None:
        assert message_of_failure(in_threads(fails_at_5, range(5, 20))) == "LookupError: item 5"

    def test_dropped_after_a_timeout(self) -> None:
        end = threading.Event()
        results = in_threads(lambda _: end.wait(30), timeout=0.05)
        assert message_of_failure(results).startswith("RuntimeError: a batch took more than 0.05 s")
        end.set()

    def test_a_timeout_that_the_work_raises_is_its_own(self) -> None:
        def times_out(_: int) -> None:
            raise TimeoutError("the store's")

        assert message_of_failure(in_threads(times_out, timeout=5)) == "TimeoutError: the store's"

    def test_items_that_end_with_an_error(self) -> None:
        def items() -> Iterator[int]:
            yield from range(3)
            raise LookupError("no more")

        results = InThreads(fails_at_5, items(), 3, 1, 0, None)
        assert [next(results) for _ in range(3)] == [0, 2, 4]
        assert message_of_failure(results) == "LookupError: no more"

    def test_init_that_fails_is_each_results_error(self) -> None:
        def init(number: int) -> None:
            raise LookupError(f"init {number >= 0}")

        results = in_threads(fails_at_5, range(4), init=init)
        assert [message_of_failure(results) for _ in range(4)] == ["LookupError: init True"] * 4
        assert next(results, "over") == "over"
