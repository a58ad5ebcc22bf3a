"""What the workers of a loader count, in memory that they share with the process that made them."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import get_worker_info

log = logging.getLogger("ioaccel")

# Notes, samples, served, and the seconds: see `Counts`.
_COLUMNS = 7

# Of worker processes. If there are more, some share a row and now and then lose a count: four pages.
_ROWS = 256

Row = npt.NDArray[np.float64]


@dataclass
class Counts:
    """All rows together. A worker that was left half way is counted, too, until it ends."""

    notes: int = 0  # that were left with the engine
    samples: int = 0
    served: int = 0  # reads that came from the cache
    reading: float = 0.0  # seconds, as all that follow
    store: float = 0.0  # of these, waiting for stores
    disk: float = 0.0  # of these, waiting for disks
    code: float = 0.0  # of the data set, without reading


class Tally:
    """A row a worker, written by it alone: a count costs no message.

    Goes along to workers under fork, spawn and forkserver. Threads of this process have rows, too.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._rows = torch.zeros((_ROWS, _COLUMNS), dtype=torch.float64)
        self._own: dict[int, Row] = {}  # by thread; the numbers of threads are used again
        self.shared = True
        try:
            self._rows.share_memory_()  # type: ignore[no-untyped-call]
        except (OSError, RuntimeError) as error:
            log.warning("explain() will not know what workers waited for: no shared memory: %s", error)
            self.shared = False

    @property
    def is_here(self) -> bool:
        """Whether workers of this process would share it: a copy, by pickle or fork, is another's."""
        is_shared: bool = self._rows.is_shared()  # type: ignore[no-untyped-call]
        return self._pid == os.getpid() and is_shared == self.shared

    def row(self) -> Row:
        """The row that this thread adds to."""
        worker = get_worker_info()
        if worker is not None and os.getpid() != self._pid:
            shared: Row = self._rows[worker.id % _ROWS].numpy()
            return shared
        return self._own.setdefault(threading.get_ident(), np.zeros(_COLUMNS))

    def counts(self) -> Counts:
        """What was counted up to now."""
        total = self._rows.numpy().sum(axis=0)
        for row in list(self._own.values()):
            total = total + row
        notes, samples, served, *seconds = total.tolist()
        return Counts(int(notes), int(samples), int(served), *seconds)
