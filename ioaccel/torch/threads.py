"""Work done in threads, its results handed out in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from queue import SimpleQueue
from typing import Any

Task = tuple[Future[Any], Any]


class InThreads:
    """``work(item)`` of each item, ``ahead`` of them at once in ``count`` threads, in the order of the items.

    What ``work`` raises is raised in its place, and the next call goes on with the next item. The threads
    end with the last item, or when this is dropped; they are daemons, so work that hangs keeps no process
    alive. ``timeout`` seconds are waited for a result, 0: any time. ``init(n)`` comes first in each thread.
    """

    def __init__(
        self,
        work: Callable[[Any], Any],
        items: Iterator[Any],
        count: int,
        ahead: int,
        timeout: float,
        init: Callable[[int], None] | None,
    ) -> None:
        self._items = items
        self._ahead = ahead
        self._timeout = timeout
        self._count = count
        self._coming: deque[Future[Any]] = deque()
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._more = True
        for number in range(count):
            threading.Thread(
                target=_run, args=(self._tasks, work, init, number), name="ioaccel-loader", daemon=True
            ).start()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        while self._more and len(self._coming) < self._ahead:
            try:
                item = next(self._items)
            except StopIteration:
                self._more = False
                break
            future: Future[Any] = Future()
            self._coming.append(future)
            self._tasks.put((future, item))
        if not self._coming:
            self.close()
            raise StopIteration
        future = self._coming.popleft()
        try:
            return future.result(self._timeout or None)
        except FutureTimeoutError:
            if future.done():  # the work's own error, or its result after all
                return future.result()
            raise RuntimeError(
                f"a batch took more than {self._timeout} s; its transform hangs, or timeout= is too short"
            ) from None
        finally:
            # An error knows this frame, and the future knows the error: left in a circle they would keep
            # this object, and so its threads, until the next garbage collection.
            del future

    def close(self) -> None:
        """Has the threads end; what none has begun is dropped."""
        for future in self._coming:
            future.cancel()
        for _ in range(self._count):
            self._tasks.put(None)
        self._count = 0

    def __del__(self) -> None:
        self.close()


def _run(
    tasks: SimpleQueue[Task | None],
    work: Callable[[Any], Any],
    init: Callable[[int], None] | None,
    number: int,
) -> None:
    failure: BaseException | None = None
    try:
        if init is not None:
            init(number)
    except BaseException as error:  # noqa: BLE001  # whoever waits raises it
        failure = error
    while (task := tasks.get()) is not None:
        future, item = task
        del task
        if future.set_running_or_notify_cancel():
            try:
                if failure is not None:
                    raise failure
                future.set_result(work(item))
            except BaseException as error:  # noqa: BLE001
                future.set_exception(error)
        del future, item
    failure = None  # it knows this frame
