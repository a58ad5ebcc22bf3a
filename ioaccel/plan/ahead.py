"""Prefetch ahead of a job: what its next batches will read is asked for before they do."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any

from ioaccel.client.reader import Reader
from ioaccel.intercept import Read
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
# a cache that holds all stays so, and a look costs as much as a tenth of the fastest loader's batch.
_CALM_BATCHES = 32
_CALM_STRIDE = 8

# The thread leaves when it had nothing to do for so long; the next batch starts another.
_IDLE_SECONDS = 5.0


class Ahead:
    """Prefetches batches in the order in which they are submitted, in a thread of its own.

    ``notes()`` is called before each batch, by that thread: it learns what samples read. ``stores`` are
    the readers of the stores that reads name.
    """

    def __init__(self, reads: Reads, stores: dict[str, Reader], notes: Callable[[], object]) -> None:
        self._reads = reads
        self._stores = stores
        self._notes = notes
        self._queue: SimpleQueue[tuple[Sequence[int], bool]] = SimpleQueue()
        self._lock = threading.Lock()
        self._working = threading.Lock()  # held while a batch is worked on; a fork waits for it
        self._thread: threading.Thread | None = None
        self._waiting: list[Sequence[int]] = []  # batches of which nothing was known yet
        self._sample_bytes = 0.0
        self._calm = 0  # batches in a row that were all there
        self._disk_seconds = 0.0
        self.prefetched = 0  # extents
        _planners.add(self)

    def samples(self) -> int:
        """How many samples to be ahead of the job."""
        if not self._sample_bytes:
            return _FIRST_SAMPLES
        return max(1, min(_AHEAD_SAMPLES, int(_AHEAD_BYTES / self._sample_bytes)))

    def submit(self, indices: Sequence[int]) -> None:
        """A batch that will be drawn later."""
        self._put(indices, drawn=False)

    def drawn(self, indices: Sequence[int]) -> None:
        """A batch that is drawn now: it should have arrived, so its sizes are known."""
        self._put(indices, drawn=True)

    def _put(self, indices: Sequence[int], *, drawn: bool) -> None:
        self._queue.put((indices, drawn))
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ioaccel-ahead", daemon=True)
                self._thread.start()

    def reset(self) -> None:
        """Forgets what was submitted and not yet asked for: another epoch begins."""
        try:
            while True:
                self._queue.get_nowait()
        except Empty:
            self._waiting.clear()

    def _run(self) -> None:
        while True:
            try:
                indices, drawn = self._queue.get(timeout=_IDLE_SECONDS)
            except Empty:
                with self._lock:
                    if self._queue.empty():
                        self._thread = None
                        return
                continue
            with self._working:
                try:
                    self._notes()
                    self._work(indices, drawn)
                except Exception as error:  # noqa: BLE001  # a prefetch that fails is only one that is missing
                    log.debug("prefetch: %s: %s", type(error).__name__, error)

    def _work(self, indices: Sequence[int], drawn: bool) -> None:
        if drawn:
            if self._calm <= _CALM_BATCHES:
                self._weigh(indices)
            if not self._waiting:
                return
            indices = []
        elif self._skips():
            return
        waiting, self._waiting = self._waiting, []
        for batch in [*waiting, indices]:
            if not len(batch):
                continue
            reads = self._reads.of(batch)
            if any(read.store in self._stores for read in reads):
                self._prefetch(reads)
            else:
                self._waiting.append(batch)  # the first sample that is read may tell

    def _skips(self) -> bool:
        """Whether this batch need not be looked at."""
        disk = sum(reader.disk_seconds for reader in self._stores.values())
        if disk != self._disk_seconds:
            self._disk_seconds, self._calm = disk, 0
        self._calm += 1
        return self._calm > _CALM_BATCHES and self._calm % _CALM_STRIDE != 0

    def _prefetch(self, reads: Sequence[Read]) -> None:
        for store, reader in list(self._stores.items()):
            wanted = list(dict.fromkeys(read[1:] for read in reads if read.store == store))
            missing = reader.missing(wanted, hint=True) if wanted else []
            if missing:
                reader.prefetch(missing)
                self.prefetched += len(missing)
                self._calm = 0

    def _weigh(self, indices: Sequence[int]) -> None:
        size = 0
        reads = self._reads.of(indices)
        for store, reader in list(self._stores.items()):
            size += reader.cached_bytes(read[1:] for read in reads if read.store == store)
        if size:
            weight = size / len(indices)
            self._sample_bytes += (weight - self._sample_bytes) / (4 if self._sample_bytes else 1)

    def _before_fork(self) -> None:
        self._working.acquire()

    def _after_fork(self) -> None:
        self._working.release()

    def _in_child(self) -> None:
        """The thread is the parent's."""
        self._working = threading.Lock()
        self._lock = threading.Lock()
        self._queue = SimpleQueue()
        self._thread = None


# A child must not inherit a lock that the thread held, deep in a library: forks wait until it rests.
_planners: weakref.WeakSet[Ahead] = weakref.WeakSet()
_forking: list[Any] = []


def _before() -> None:
    _forking[:] = list(_planners)
    for planner in _forking:
        planner._before_fork()


def _after_in_parent() -> None:
    for planner in _forking:
        planner._after_fork()
    _forking.clear()


def _after_in_child() -> None:
    for planner in _forking:
        planner._in_child()
    _forking.clear()


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
