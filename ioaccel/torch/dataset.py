"""A data set whose reads come from the cache; in everything else it is the one inside."""

from __future__ import annotations

import copy
import functools
import operator
import os
import pickle
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from torch.utils.data import ConcatDataset, IterableDataset, Subset

from ioaccel.client.reader import Reader
from ioaccel.intercept import Read, Scope
from ioaccel.plan.reads import Reads, Rule, fingerprint
from ioaccel.plan.told import names_of
from ioaccel.plan.trace import Trace

# Samples that are read one by one report together: each report is a message.
_REPORT_SECONDS = 0.2


class Note(msgspec.Struct, array_like=True):
    """What a process tells of the samples it has read."""

    stores: dict[str, bytes]  # readers that are new, by the identity of their stores
    reads: list[tuple[int, list[Read]]]  # by index
    epoch: int
    samples: int
    reading: float  # seconds of all that follow
    store: float
    disk: float
    code: float


class Settings:
    """What `accelerate` was told, and what is known since: goes along to every worker."""

    def __init__(
        self, reader: Reader, paths: Sequence[str], extents: Callable[[Settings, Sequence[int]], Any] | None
    ) -> None:
        self.reader = reader
        self.paths = tuple(os.path.abspath(path) for path in paths)
        self.extents = extents
        self.batched = False  # the data set itself reads a batch in one call
        self.board = uuid.uuid4().hex  # where workers leave notes
        self.rules: dict[int, Rule] | None = None
        self.stores: dict[str, Reader] = {}
        self.epoch = 0

    def reads(self, dataset: Any) -> Reads:
        """What samples read, as far as it is known now."""
        trace = Trace(self.reader.config.directories[0], fingerprint(dataset))
        trace.refresh()
        given = functools.partial(self.extents, self) if self.extents is not None else None
        return Reads(names_of(dataset), given, trace, self.rules)

    def scope(self) -> Scope:
        """For one thread."""
        scope = Scope(self.reader, self.paths)
        scope.stores = self.stores
        return scope


class _Worker:
    """One thread of one process that reads samples."""

    def __init__(self, dataset: Any, settings: Settings) -> None:
        self._settings = settings
        self.scope = settings.scope()
        self._told_stores = set(settings.stores)
        self.reads = settings.reads(dataset)
        self._records: list[tuple[int, list[Read]]] = []
        self._samples = 0
        self._code = 0.0
        self._reported = time.monotonic()
        self._waited = (0.0, 0.0)

    def ahead(self, indices: Sequence[Any]) -> None:
        """Asks for what these samples will read, as far as it is known and not cached."""
        if self._settings.batched:
            return
        numbers = [i for i in map(as_number, indices) if i is not None]
        reads = self.reads.of(numbers)
        if reads:
            self.scope.read_ahead(reads)

    def take(self, index: Any) -> bool:
        """Notes what the sample has read since the last call; whether that taught something new."""
        reads, self.scope.reads = self.scope.reads, []
        self._samples += 1
        number = as_number(index)
        if number is None or not reads:
            return False
        knew = bool(self.reads.rules) and self.reads.exact
        self.reads.learn(number, reads)
        if not (knew and self.reads.exact):
            self._records.append((number, reads))
        return not knew and self.reads.exact

    def report(self, seconds: float, *, now: bool) -> None:
        """Adds the seconds that samples took, reading included; and tells, or ``now`` at the latest."""
        self._code += seconds
        if not now and time.monotonic() - self._reported < _REPORT_SECONDS:
            return
        reading, self.scope.seconds = self.scope.seconds, 0.0
        reader = self._settings.reader
        store, disk = 0.0, 0.0
        for each in {id(r): r for r in (*self.scope.stores.values(), reader)}.values():
            store += each.waited_seconds
            disk += each.disk_seconds
        before, self._waited = self._waited, (store, disk)
        new = {s: pickle.dumps(r) for s, r in self.scope.stores.items() if s not in self._told_stores}
        note = Note(
            new,
            self._records,
            self._settings.epoch,
            self._samples,
            reading,
            store - before[0],
            disk - before[1],
            max(0.0, self._code - reading),
        )
        self._told_stores |= new.keys()
        self._records, self._samples, self._code = [], 0, 0.0
        self._reported = time.monotonic()
        reader.post(self._settings.board, msgspec.msgpack.encode(note))


def as_number(index: Any) -> int | None:
    """An index that is a number, or None for one of another kind."""
    try:
        return operator.index(index)
    except TypeError:
        return None


class _Proxy:
    """Whatever is not said here is asked of the data set inside."""

    def __init__(self, inner: Any, settings: Settings) -> None:
        object.__setattr__(self, "_ioaccel_inner", inner)
        object.__setattr__(self, "_ioaccel_settings", settings)
        object.__setattr__(self, "_ioaccel_local", _Workers())

    def _ioaccel_worker(self) -> _Worker:
        workers: _Workers = self._ioaccel_local
        return workers.get(self._ioaccel_inner, self._ioaccel_settings)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # isinstance() asks this, too
        return type(self._ioaccel_inner)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)  # what copies and pickles would be told to be the one inside
        return getattr(self._ioaccel_inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._ioaccel_inner, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._ioaccel_inner, name)

    def __dir__(self) -> list[str]:
        return dir(self._ioaccel_inner)

    def __repr__(self) -> str:
        return f"accelerate({self._ioaccel_inner!r})"

    def __add__(self, other: Any) -> Any:
        return ConcatDataset([self, other])  # type: ignore[list-item]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return wrap, (self._ioaccel_inner, self._ioaccel_settings)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return wrap(copy.deepcopy(self._ioaccel_inner, memo), self._ioaccel_settings)


class _MapProxy(_Proxy):
    def __getitem__(self, index: Any) -> Any:
        worker = self._ioaccel_worker()
        begun = time.perf_counter()
        with worker.scope:
            sample = self._ioaccel_inner[index]
        worker.take(index)
        worker.report(time.perf_counter() - begun, now=False)
        return sample

    def __getitems__(self, indices: Sequence[Any]) -> list[Any]:
        worker, inner = self._ioaccel_worker(), self._ioaccel_inner
        begun = time.perf_counter()
        try:
            worker.ahead(indices)
            many = getattr(inner, "__getitems__", None)
            # torch's own calls the data set one by one, unless that has a method for many.
            if type(inner) is Subset and not hasattr(inner.dataset, "__getitems__"):
                many = None
            with worker.scope:
                if many is not None:
                    samples: list[Any] = many(indices)
                    self._ioaccel_share(worker, indices)
                    return samples
                samples = []
                for position, index in enumerate(indices):
                    samples.append(inner[index])
                    if worker.take(index):
                        worker.ahead(indices[position + 1 :])
                return samples
        finally:
            worker.scope.held.clear()
            worker.scope.reads.clear()
            worker.report(time.perf_counter() - begun, now=True)

    @staticmethod
    def _ioaccel_share(worker: _Worker, indices: Sequence[Any]) -> None:
        """Which sample has read what: known if each has read as many extents, in their order."""
        reads, worker.scope.reads = worker.scope.reads, []
        each, rest = divmod(len(reads), len(indices) or 1)
        for position, index in enumerate(indices):
            worker.scope.reads = [] if rest else reads[position * each : (position + 1) * each]
            worker.take(index)


class _IterableProxy(_Proxy):
    def __iter__(self) -> Iterator[Any]:
        worker = self._ioaccel_worker()
        with worker.scope:
            samples = iter(self._ioaccel_inner)
        while True:
            with worker.scope:
                try:
                    sample = next(samples)
                except StopIteration:
                    return
            worker.take(None)
            yield sample


class _Workers(threading.local):
    """The worker of each thread; made anew in a child process."""

    def __init__(self) -> None:
        self._worker: _Worker | None = None
        self._pid = 0

    def get(self, inner: Any, settings: Settings) -> _Worker:
        if self._worker is None or self._pid != os.getpid():
            self._worker, self._pid = _Worker(inner, settings), os.getpid()
        return self._worker


def _length(self: Any) -> int:
    return len(self._ioaccel_inner)


_Sized = type("_SizedProxy", (_MapProxy,), {"__len__": _length})
_SizedIterable = type("_SizedIterableProxy", (_IterableProxy,), {"__len__": _length})


def wrap(inner: Any, settings: Settings) -> Any:
    """The data set, its reads served by the cache."""
    sized = hasattr(inner, "__len__")
    if isinstance(inner, IterableDataset):
        return (_SizedIterable if sized else _IterableProxy)(inner, settings)
    return (_Sized if sized else _MapProxy)(inner, settings)


def settings_of(dataset: Any) -> Settings | None:
    """The settings of a data set that was wrapped."""
    return dataset.__dict__.get("_ioaccel_settings") if issubclass(type(dataset), _Proxy) else None


def worker_of(dataset: Any) -> Any:
    """What serves this thread's reads of a data set that was wrapped."""
    return dataset._ioaccel_worker()


def inner_of(dataset: Any) -> Any:
    """The data set inside one that was wrapped."""
    return dataset.__dict__["_ioaccel_inner"]
