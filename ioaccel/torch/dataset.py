"""A data set whose reads come from the cache; in everything else it is the one inside."""

from __future__ import annotations

import copy
import functools
import logging
import operator
import os
import pickle
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import msgspec
from torch.utils.data import ChainDataset, ConcatDataset, Dataset, IterableDataset, Subset

from ioaccel.client.cache import Cache
from ioaccel.client.reader import Reader
from ioaccel.intercept.install import serving
from ioaccel.intercept.reads import Read
from ioaccel.intercept.scope import Scope
from ioaccel.plan.reads import Reads, Rule
from ioaccel.plan.told import names_of
from ioaccel.plan.trace import Trace
from ioaccel.torch.explain import Explanation
from ioaccel.torch.tally import Row, Tally

log = logging.getLogger("ioaccel")

# When nothing was missing in so many batches, only every so many-th is looked after: that costs as much as
# a third of reading a cached object of 100 KB.
_CALM_BATCHES = 8
_CALM_STRIDE = 8


class Note(msgspec.Struct, array_like=True):
    """What a process tells of the samples it has read, if that is new: each note is a message."""

    stores: dict[str, bytes]  # readers, by the identity of their stores
    reads: list[tuple[int, list[Read]]]  # by index
    refused: dict[str, str]


class Settings:
    """What `accelerate` was told, and what is known since: goes along to every worker."""

    def __init__(
        self,
        reader: Reader,
        paths: Sequence[str],
        extents: Callable[[Settings, Sequence[int]], Any] | None,
        name: str = "",
    ) -> None:
        self.reader = reader
        self.paths = tuple(os.path.abspath(path) for path in paths)
        self.extents = extents
        self.cache: Cache | None = None  # kept open as long as this is
        self.batched = False  # the data set itself reads a batch in one call
        self.name = name  # of the data set, from run to run, as it was when it was accelerated
        self.board = uuid.uuid4().hex  # where workers leave notes
        self.tally: Tally | None = None  # what they count; without a loader, nobody asks
        self.calm = False  # nothing was missing in the last batches of the epoch before
        self.rules: list[Rule] | None = None
        self.exact: bool | None = None
        self.stores: dict[str, Reader] = {}

    def reads(self, dataset: Any) -> Reads:
        """What samples read, as far as it is known now."""
        trace = Trace(self.reader.config.directories[0], self.name)
        trace.refresh()
        given = functools.partial(self.extents, self) if self.extents is not None else None
        try:
            count = len(dataset)
        except Exception:  # noqa: BLE001  # a stream, or a stranger's class
            count = 0
        return Reads(names_of(dataset), given, trace, self.rules, self.exact, count)

    def scope(self) -> Scope:
        """For one thread."""
        scope = serving(self.reader, self.paths)
        scope.stores = self.stores
        return scope


class _Worker:
    """One thread of one process that reads samples. Whatever goes wrong here is not the job's business."""

    def __init__(self, dataset: Any, settings: Settings) -> None:
        self._settings = settings
        self.scope = settings.scope()
        self._told_stores = set(settings.stores)
        self._told_refused: set[str] = set()
        self.reads = settings.reads(dataset)
        self._expected: dict[int, list[Read]] = {}
        self._records: list[tuple[int, list[Read]]] = []
        self._samples = 0
        self._served = 0
        self._counts: Row | None = None
        self._readers: list[Reader] = []  # whose waits count
        self._stores = -1  # how many there were when they were looked up
        # In a row, in which nothing was missing.
        self._calm_batches = _CALM_BATCHES if settings.calm else 0
        # That were waited for stores and disks when samples were last looked after.
        self._store_seconds = self._disk_seconds = 0.0
        self._hinted = False  # the disk has been told what the batch reads
        self.calm = False  # what is known is cached: samples are not looked after, until one has to wait

    def ahead(self, indices: Sequence[Any]) -> None:
        """Asks for what these samples will read, as far as it is known and not cached."""
        if self._settings.batched:
            return
        store, disk = self._store_seconds, self._disk_seconds
        self._store_seconds, self._disk_seconds = self._waits(), self._disk_waits()
        # One sample after the other would wait for the disk, behind all that others have asked it for.
        self._hinted = disk != self._disk_seconds
        self._calm_batches = self._calm_batches + 1 if store == self._store_seconds else 0
        self.calm = (
            self._calm_batches > _CALM_BATCHES
            and self._calm_batches % _CALM_STRIDE != 0
            and not self._hinted
            and self.reads.known
        )
        if self.calm:
            return
        try:
            numbers = [i for i in map(as_number, indices) if i is not None]
            each = self.reads.each_of(numbers)
            self._expected = dict(zip(numbers, each, strict=True))
            reads = [read for reads in each for read in reads]
            if reads:
                self.scope.read_ahead(reads, hint=self._hinted)
        except Exception as error:  # noqa: BLE001  # what the user's extents= raises, or a data set that misled us
            self.scope.refuse("prefetch", error)

    def take(self, index: Any) -> bool:
        """Notes what the sample has read since the last call; whether the others should be looked after."""
        cold = not self._hinted and self._disk_waits() != self._disk_seconds
        if self.calm and not cold and self._waits() == self._store_seconds:
            self._served += len(self.scope.reads)
            self.scope.reads.clear()
            self._samples += 1
            return False
        woken, self.calm = self.calm or cold, False
        reads, self.scope.reads = list(dict.fromkeys(self.scope.reads)), []
        self._samples += 1
        self._served += len(reads)
        number = as_number(index)
        if number is None or not reads:
            return woken
        taught = self.reads.learn(number, reads)
        if taught or (not self.reads.exact and self._expected.get(number) != reads):
            self._records.append((number, reads))
        return taught or woken

    def _waits(self) -> float:
        """Seconds that this process has waited for stores."""
        if self._stores != len(self.scope.stores):  # and our own data sets read with the settings' reader
            self._stores = len(self.scope.stores)
            readers = (self._settings.reader, *self.scope.stores.values())
            self._readers = list({id(reader): reader for reader in readers}.values())
        waited = 0.0
        for reader in self._readers:
            waited += reader.waited_seconds
        return waited

    def _disk_waits(self) -> float:
        """The same for disks."""
        waited = 0.0
        for reader in self._readers:
            waited += reader.disk_seconds
        return waited

    def have_read(self, samples: int, seconds: float) -> None:
        """Counts objects, one a sample, that were read past the scope, in one go; and reports."""
        self._samples += samples
        self._served += samples
        self.scope.seconds += seconds
        self.report(seconds)

    def report(self, seconds: float) -> None:
        """Counts what samples did since the last call, in ``seconds`` with reading; tells what is new."""
        samples, self._samples = self._samples, 0
        served, self._served = self._served, 0
        reading, self.scope.seconds = self.scope.seconds, 0.0
        if self._counts is None:
            if self._settings.tally is None:
                self._records = []
                return
            self._counts = self._settings.tally.row()
        try:
            # Before it is counted: whoever sees the count finds the note.
            told = self._tell()
        except Exception as error:  # noqa: BLE001  # the cache was closed
            log.debug("notes: %s", error)
            told = False
        self._waits()  # meets new readers
        store, disk = map(sum, zip(*(reader.take_waits() for reader in self._readers), strict=True))
        self._counts += (told, samples, served, reading, store, disk, max(0.0, seconds - reading))

    def _tell(self) -> bool:
        """Leaves a note, if there is news: what was recorded, above all, as no worker has a last moment."""
        stores = self.scope.stores
        new: dict[str, bytes] = {}
        if len(stores) > len(self._told_stores):
            new = {s: pickle.dumps(r) for s, r in list(stores.items()) if s not in self._told_stores}
        refused: dict[str, str] = {}
        if len(self.scope.refused) > len(self._told_refused):
            refused = {
                what: why for what, why in self.scope.refused.items() if what not in self._told_refused
            }
        if not (new or refused or self._records):
            return False
        self._settings.reader.post(
            self._settings.board, msgspec.msgpack.encode(Note(new, self._records, refused))
        )
        self._told_stores |= new.keys()
        self._told_refused |= refused.keys()
        self._records = []
        return True


def as_number(index: Any) -> int | None:
    """An index that is a number, or None for one of another kind."""
    try:
        return operator.index(index)
    except TypeError:
        return None


class _Proxy:
    """Whatever is not said here is asked of the data set inside."""

    __slots__ = ("__weakref__", "_ioaccel_inner", "_ioaccel_local", "_ioaccel_settings")

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

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        return cast("dict[str, Any]", vars(self._ioaccel_inner))

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("__", "_ioaccel_")):
            raise AttributeError(name)  # what copies and pickles would be told to be the one inside
        if name == "explain" and not hasattr(self._ioaccel_inner, name):
            return self._ioaccel_explain
        return getattr(self._ioaccel_inner, name)

    def _ioaccel_explain(self) -> Explanation:
        """Where this process knows from what samples read. A data set has no epochs: a loader has."""
        worker = self._ioaccel_worker()
        source = (
            worker.reads.source()
            if worker.reads.known
            else "what a sample reads is not known before it is read"
        )
        return Explanation(
            f"{source}. This is a data set alone: accelerate() its DataLoader to have its sampler looked "
            "ahead of, reads recorded and waits measured",
            refused=dict(worker.scope.refused),
        )

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._ioaccel_inner, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._ioaccel_inner, name)

    def __dir__(self) -> list[str]:
        return dir(self._ioaccel_inner)

    def __repr__(self) -> str:
        return f"accelerate({self._ioaccel_inner!r})"

    def __add__(self, other: Any) -> Any:
        inner, me = self._ioaccel_inner, cast("Any", self)
        if not isinstance(inner, Dataset):
            return inner + other  # a list's
        return (ChainDataset if isinstance(inner, IterableDataset) else ConcatDataset)([me, other])

    def __reduce_ex__(self, protocol: Any) -> Any:
        return wrap, (self._ioaccel_inner, self._ioaccel_settings)

    def __copy__(self) -> Any:
        return wrap(copy.copy(self._ioaccel_inner), self._ioaccel_settings)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return wrap(copy.deepcopy(self._ioaccel_inner, memo), self._ioaccel_settings)


class _MapProxy(_Proxy):
    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        worker = self._ioaccel_worker()
        begun = time.perf_counter()
        try:
            with worker.scope:
                sample = self._ioaccel_inner[index]
            worker.take(index)
            return sample
        finally:
            worker.scope.reads.clear()  # what a sample that failed has read is no other's
            worker.report(time.perf_counter() - begun)

    def __getitems__(self, indices: Sequence[Any]) -> list[Any]:
        worker, inner = self._ioaccel_worker(), self._ioaccel_inner
        begun = time.perf_counter()
        known = hasattr(indices, "__len__")  # an iterator is the data set's to draw from
        try:
            order = list(indices) if known else []
            if known:
                worker.ahead(order)
            many = getattr(inner, "__getitems__", None)
            # torch's own calls the data set one by one, unless that has a method for many.
            if type(inner) is Subset and not callable(getattr(inner.dataset, "__getitems__", None)):
                many = None
            with worker.scope:
                if many:
                    samples: list[Any] = many(indices)
                    if known:
                        self._ioaccel_share(worker, indices)
                    return samples
                samples = []
                for position, index in enumerate(indices):
                    samples.append(inner[index])
                    if worker.take(index) and known:
                        worker.ahead(order[position + 1 :])
                return samples
        finally:
            worker.scope.held.clear()
            worker.scope.reads.clear()
            worker.report(time.perf_counter() - begun)

    @staticmethod
    def _ioaccel_share(worker: _Worker, indices: Sequence[Any]) -> None:
        """Which sample has read what: known if each has read as many extents, in their order."""
        reads, worker.scope.reads = worker.scope.reads, []
        each, rest = divmod(len(reads), len(indices) or 1)
        for position, index in enumerate(indices):
            worker.scope.reads = [] if rest else reads[position * each : (position + 1) * each]
            worker.take(index)


class _IterableProxy(_Proxy):
    __slots__ = ()

    def __iter__(self) -> Iterator[Any]:
        worker = self._ioaccel_worker()
        with worker.scope:
            samples = iter(self._ioaccel_inner)
        return _Stream(worker, samples)


class _Stream:
    """The samples of a stream. No generator: one that raised is over, and a stream may go on."""

    def __init__(self, worker: _Worker, samples: Iterator[Any]) -> None:
        self._worker = worker
        self._samples = samples

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        worker, begun, over = self._worker, time.perf_counter(), True
        try:
            with worker.scope:
                sample = next(self._samples)
            over = False
            return sample
        finally:
            if not over:
                worker.take(None)
            worker.scope.reads.clear()
            worker.report(time.perf_counter() - begun)


class _Workers(threading.local):
    """The worker of each thread; made anew in a child process."""

    def __init__(self) -> None:
        self._worker: _Worker | None = None
        self._pid = 0

    def get(self, inner: Any, settings: Settings) -> _Worker:
        if self._worker is None or self._pid != os.getpid():
            self._worker, self._pid = _Worker(inner, settings), os.getpid()
        return self._worker


# Special methods that are not handed on to the data set inside: they make an object what it is, or are
# said above.
_KEPT = frozenset(
    {
        "__annotations__",
        "__class__",
        "__class_getitem__",
        "__copy__",
        "__deepcopy__",
        "__del__",
        "__delattr__",
    }
    | {"__dict__", "__dir__", "__doc__", "__getattr__", "__getattribute__", "__getitem__", "__getitems__"}
    | {"__getnewargs__", "__getnewargs_ex__", "__getstate__", "__init__", "__init_subclass__", "__module__"}
    | {"__new__", "__reduce__", "__reduce_ex__", "__repr__", "__setattr__", "__setstate__", "__sizeof__"}
    | {"__slots__", "__subclasshook__", "__weakref__", "__add__"}
)


def _methods_of(cls: type) -> frozenset[str]:
    """The special methods that a class has beyond those of any object."""
    return frozenset(
        name
        for name in dir(cls)
        if name.startswith("__")
        and name.endswith("__")
        and getattr(cls, name, None) is not getattr(object, name, None)
        and (callable(getattr(cls, name, None)) or name == "__hash__")
    )


@functools.cache
def _proxy_for(cls: type) -> type:
    """A class of proxies that has the special methods of ``cls``: Python looks for them in the class."""
    base = _IterableProxy if issubclass(cls, IterableDataset) else _MapProxy
    kept = _KEPT | ({"__iter__"} if base is _IterableProxy else set())
    body: dict[str, Any] = {"__slots__": (), "__doc__": cls.__doc__, "__module__": cls.__module__}
    for name in _methods_of(cls) - kept:
        body[name] = _handed_on(name) if getattr(cls, name) is not None else None
    return type(cls.__name__, (base,), body)


def _handed_on(name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        inner = object.__getattribute__(self, "_ioaccel_inner")
        return getattr(type(inner), name)(inner, *args, **kwargs)

    method.__name__ = name
    return method


def wrap(inner: Any, settings: Settings) -> Any:
    """The data set, its reads served by the cache."""
    return _proxy_for(cast("Any", type(inner)))(inner, settings)


def is_wrapped(dataset: Any) -> bool:
    """Whether it was accelerated."""
    return issubclass(type(dataset), _Proxy)


def settings_of(dataset: Any) -> Settings | None:
    """The settings of a data set that was wrapped."""
    return dataset._ioaccel_settings if is_wrapped(dataset) else None


def worker_of(dataset: Any) -> Any:
    """What serves this thread's reads of a data set that was wrapped."""
    return dataset._ioaccel_worker()


def inner_of(dataset: Any) -> Any:
    """The data set inside one that was wrapped."""
    return dataset._ioaccel_inner
