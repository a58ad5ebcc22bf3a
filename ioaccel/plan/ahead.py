"""Prefetch ahead of a job: what its next batches will read is asked for before they do."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Any

from ioaccel.client.reader import Reader
from ioaccel.intercept.reads import Read
from ioaccel.plan.reads import Reads

log = logging.getLogger("ioaccel")

# How far ahead: what is on its way at once at 10 Gb/s and 40 ms is 50 MB, and a slow object among them
# must not end the supply; more would only take room in the cache before its time.
_AHEAD_BYTES = 256 << 20
# The same for tiny objects: eight times what a store is asked for at once.
_AHEAD_SAMPLES = 4096
# Until the sizes of samples are known.
_FIRST_SAMPLES = 1024

# When nothing was missing, nor waited for, in so many batches, only every so many-th is still looked at:
# a cache that holds all stays so, and to look takes the interpreter from a loader's threads.
_CALM_BATCHES = 32
_CALM_STRIDE = 8
# Seconds waited for disks, by all workers together, in a second, and between two looks: pages that the kernel
# just moves about take less (measured: 0.01, a few ms at once), and to look at everything again costs more
# than they do. A cold disk takes far more, from a job that waits for it at all.
_COLD_SHARE = 0.1
_COLD_SECONDS = 0.02

# The sizes of samples change little: once so many batches were weighed, it is one in so many.
_WEIGHED_BATCHES = 16
_WEIGH_STRIDE = 8

# Notes are asked for when a batch is drawn, and so often while batches are submitted or wait for them.
_NOTES_SECONDS = 0.05

# The thread leaves when it had nothing to do for so long; the next batch starts another.
_IDLE_SECONDS = 5.0


class Ahead:
    """Prefetches batches in the order in which they are submitted, in a thread of its own.

    ``notes()`` is called now and then, by that thread: it learns what samples read, and says whether that
    was new; what workers waited for it tells to `waited`. ``stores`` are the readers of the stores that
    reads name. Whoever else uses ``reads`` does so while the planner is `resting`.
    """

    def __init__(self, reads: Reads, stores: dict[str, Reader], notes: Callable[[], bool]) -> None:
        self._reads = reads
        self._stores = stores
        self._notes = notes
        self._queue: SimpleQueue[tuple[int, int, Sequence[int], bool]] = SimpleQueue()
        self._lock = threading.Lock()
        self._working = threading.Lock()  # held while a batch is worked on; a fork waits for it
        self._thread: threading.Thread | None = None
        self._name = uuid.uuid4().hex  # of what is planned here
        self._round = 0  # counts epochs
        self._submitted = self._drawn = 0  # batches of this epoch
        self._forget(0)
        self._asked = 0.0  # when `notes` was called
        self._sample_bytes = 0.0
        self._weighed = 0  # batches
        self._calm = 0  # batches in a row that were all there
        self._skipped: deque[tuple[int, Sequence[int]]] = deque()  # that were not looked at
        self._disk_told = 0.0  # seconds that workers waited for disks since the last look
        self._disk_here = 0.0  # that the readers of this process had counted then
        self._looked = time.monotonic()
        self.prefetched = 0  # extents
        _planners.add(self)

    def samples(self) -> int:
        """How many samples to be ahead of the job."""
        if not self._sample_bytes:
            return _FIRST_SAMPLES
        return max(1, min(_AHEAD_SAMPLES, int(_AHEAD_BYTES / self._sample_bytes)))

    def submit(self, indices: Sequence[int]) -> None:
        """A batch that will be drawn later."""
        self._submitted += 1
        if self._calms(self._submitted):
            self._skipped.append((self._submitted, indices))
        else:
            self._put(self._submitted, indices, drawn=False)

    def drawn(self, indices: Sequence[int]) -> None:
        """A batch that is drawn now: it should have arrived, so its sizes are known."""
        self._drawn += 1
        with contextlib.suppress(IndexError):  # the planner takes them away, too
            while self._skipped[0][0] <= self._drawn:
                self._skipped.popleft()
        if not self._calms(self._drawn):
            self._put(self._drawn, indices, drawn=True)

    @property
    def calm(self) -> bool:
        """Whether nothing was missing for a while."""
        return self._calm > _CALM_BATCHES

    def _calms(self, number: int) -> bool:
        """Whether a batch need not be looked at; the first tell whether an epoch begins as the last ended."""
        return self.calm and number > _CALM_STRIDE and number % _CALM_STRIDE != 0

    def _put(self, number: int, indices: Sequence[int], *, drawn: bool) -> None:
        self._queue.put((self._round, number, indices, drawn))
        with self._lock:
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._run, name="ioaccel-ahead", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # no more threads: without prefetch, then
                log.debug("prefetch: %s", error)
            else:
                self._thread = thread

    def reset(self) -> None:
        """Forgets what was submitted and not yet asked for: another epoch begins."""
        self._round += 1
        self._submitted = self._drawn = 0
        self._skipped.clear()

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Nothing is planned meanwhile."""
        with self._working:
            yield

    def _forget(self, number: int) -> None:
        self._working_on = number
        self._waiting: deque[tuple[int, Sequence[int]]] = deque()  # batches of which nothing was known yet

    def _run(self) -> None:
        idle = 0.0
        while True:
            patience = _NOTES_SECONDS if self._waiting else _IDLE_SECONDS
            try:
                epoch, number, indices, drawn = self._queue.get(timeout=patience)
                idle = 0.0
            except Empty:
                idle += patience
                with self._working, contextlib.suppress(Exception):  # as below
                    if self._waiting:
                        self._ask()
                with self._lock:
                    if idle >= _IDLE_SECONDS and self._queue.empty():
                        self._thread = None
                        return
                continue
            with self._working:
                if epoch != self._round:
                    continue
                if epoch != self._working_on:
                    self._forget(epoch)
                try:
                    self._work(number, indices, drawn)
                except Exception as error:  # noqa: BLE001  # a prefetch that fails is only one that is missing
                    log.debug("prefetch: %s: %s", type(error).__name__, error)

    def _work(self, number: int, indices: Sequence[int], drawn: bool) -> None:
        if self._calm == 0:
            self._plan_skipped()
        if drawn:
            while self._waiting and self._waiting[0][0] <= number:
                self._waiting.popleft()  # too late
        else:
            self._waiting.append((number, indices))
        if (drawn or time.monotonic() - self._asked > _NOTES_SECONDS) and self._ask():
            return
        if drawn:
            if not self.calm and (self._weighed < _WEIGHED_BATCHES or number % _WEIGH_STRIDE == 0):
                self._weigh(indices)
        elif self._plan(number, indices):
            self._waiting.pop()

    def _ask(self) -> bool:
        """Asks for notes; whether they told something, and what waited for that was planned."""
        self._asked = time.monotonic()
        learnt = self._notes()
        if self._calm == 0:  # somebody had to wait
            self._plan_skipped()
        if not learnt:
            return False
        waiting, self._waiting = self._waiting, deque()
        for number, batch in waiting:
            if not self._plan(number, batch):
                self._waiting.append((number, batch))
        return True

    def _plan(self, number: int, indices: Sequence[int]) -> bool:
        """Has prefetched what a batch reads; False if that is not known."""
        reads = self._reads.of(indices)
        if not any(read.store in self._stores for read in reads):
            return False
        # What all is in memory needs no hints, which are most of what it costs to look. But it may have left
        # memory since the last epoch: the first batches show that, and must not wait sample by sample.
        self._prefetch(reads, hint=not self.calm or number <= _CALM_STRIDE)
        return True

    def _plan_skipped(self) -> None:
        """Somebody had to wait: what looked safe is not."""
        with contextlib.suppress(IndexError):
            while True:
                number, indices = self._skipped.popleft()
                if number > self._drawn:
                    self._plan(number, indices)

    def waited(self, store: float, disk: float) -> None:
        """Workers had to wait so many seconds more, for the store and for disks. While it is `resting`."""
        if store:
            self._calm = 0
        self._disk_told += disk
        now = time.monotonic()
        span = now - self._looked
        if span < _NOTES_SECONDS:
            return
        here = sum(reader.disk_seconds for reader in list(self._stores.values()))
        # Threads of this process tell what its readers have counted.
        if max(self._disk_told, here - self._disk_here) > max(_COLD_SECONDS, _COLD_SHARE * span):
            # What had to be waited for is not in memory: what comes is to be read ahead, batch by batch.
            self._calm = 0
        self._disk_told, self._disk_here, self._looked = 0.0, here, now

    def _prefetch(self, reads: Sequence[Read], *, hint: bool) -> None:
        self._calm += 1
        for store, reader in list(self._stores.items()):
            wanted = list(dict.fromkeys(read[1:] for read in reads if read.store == store))
            missing = reader.missing(wanted, hint=hint) if wanted else []
            if missing:
                reader.prefetch(missing, (self._name, self._working_on))
                self.prefetched += len(missing)
                self._calm = 0

    def _weigh(self, indices: Sequence[int]) -> None:
        if not len(indices):
            return
        size = 0
        reads = self._reads.of(indices)
        for store, reader in list(self._stores.items()):
            size += reader.cached_bytes(read[1:] for read in reads if read.store == store)
        if size:
            weight = size / len(indices)
            self._sample_bytes += (weight - self._sample_bytes) / (4 if self._sample_bytes else 1)
            self._weighed += 1

    def _before_fork(self) -> None:
        self._working.acquire()

    def _after_fork(self) -> None:
        self._working.release()

    def _in_child(self) -> None:
        """The thread is the parent's."""
        self._working = threading.Lock()
        self._lock = threading.Lock()
        self._queue = SimpleQueue()
        self._name = uuid.uuid4().hex
        self._forget(self._round)
        self._thread = None


# A child must not inherit a lock that the thread held, deep in a library: forks wait until it rests.
_planners: weakref.WeakSet[Ahead] = weakref.WeakSet()
_forking: list[Any] = []
_fork_lock = threading.Lock()  # two threads may fork at once


def _before() -> None:
    _fork_lock.acquire()
    for planner in list(_planners):
        planner._before_fork()
        _forking.append(planner)


def _after_in_parent() -> None:
    while _forking:
        _forking.pop()._after_fork()
    _fork_lock.release()


def _after_in_child() -> None:
    global _fork_lock  # noqa: PLW0603  # the parent holds it
    _fork_lock = threading.Lock()
    while _forking:
        _forking.pop()._in_child()


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
