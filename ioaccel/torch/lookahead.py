"""A loader whose sampler is looked ahead of, and whose waits are measured."""

from __future__ import annotations

import copy
import functools
import pickle
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec
from torch.utils.data import IterableDataset

from ioaccel.plan.ahead import Ahead
from ioaccel.torch.dataset import Note, Settings, inner_of, settings_of
from ioaccel.torch.explain import Epoch, Explanation
from ioaccel.torch.resume import Position
from ioaccel.torch.shadow import Shadow, generators_of


class Job:
    """One accelerated loader in the process that iterates over it."""

    def __init__(self, dataset: Any, settings: Settings, explain: bool) -> None:
        inner = inner_of(dataset)
        self.settings = settings
        self.explain = explain
        self.reads = settings.reads(inner)
        self.stores = settings.stores
        self.ahead = Ahead(self.reads, self.stores, self.collect)
        self.epochs: list[Epoch] = []
        self.foreseen = True  # the sampler could be copied, and drew what its copy had drawn

    def begin(self, workers: int) -> None:
        """An epoch begins."""
        self.ahead.reset()
        self.epochs.append(Epoch(workers=max(workers, 1)))
        self.settings.epoch = len(self.epochs)
        self.settings.rules = self.reads.rules

    def end(self) -> None:
        """It was gone through."""
        self.collect()
        self.reads.keep()
        if self.explain:  # it was asked for
            print(  # noqa: T201
                Explanation(self.source(), self.epochs[-1:], len(self.epochs))
            )

    def collect(self) -> None:
        """Learns what workers tell."""
        for data in self.settings.reader.collect(self.settings.board):
            note = msgspec.msgpack.decode(data, type=Note)
            for store, reader in note.stores.items():
                if store not in self.stores:
                    self.stores[store] = self.settings.reader.adopt(pickle.loads(reader))  # noqa: S301  # a worker of ours
            for index, reads in note.reads:
                self.reads.learn(index, reads)
            self.reads.record(note.reads)
            if 0 < note.epoch <= len(self.epochs):
                epoch = self.epochs[note.epoch - 1]
                epoch.samples += note.samples
                epoch.store += note.store
                epoch.disk += note.disk
                epoch.copy += max(0.0, note.reading - note.store - note.disk)
                epoch.code += note.code

    def source(self) -> str:
        """Where prefetch knows from what is read."""
        text = self.reads.source()
        if not self.foreseen:
            text += "; the sampler cannot be looked ahead of, so each batch is fetched when it is drawn"
        return text


class _Lookahead:
    """Stands for the sampler: yields the same, and tells the plan what comes."""

    def __init__(self, sampler: Any, loader: Any) -> None:
        self._sampler = sampler
        self._loader = loader

    def __len__(self) -> int:
        return len(self._sampler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)

    def __iter__(self) -> Iterator[Any]:
        return _Draws(self._sampler, self._loader)


class _Draws:
    """The draws of one epoch."""

    def __init__(self, sampler: Any, loader: Any) -> None:
        self._job: Job = loader._ioaccel_job
        self._position: Position = loader._ioaccel_position
        self._batched = loader._auto_collation
        self._generators = generators_of(loader)
        self._shadow: Shadow | None = None
        self._coming: deque[Any] = deque()
        self._samples = 0
        self._begun = False
        try:
            self._shadow = Shadow(sampler, self._generators)
        except Exception:  # noqa: BLE001  # not every sampler can be copied
            self._job.foreseen = False
        self._loader = loader
        self._real = iter(sampler)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if not self._begun:
            self._begun = True
            real = self._position.first_draw(self._real, self._shadow, self._loader, self._generators)
            if real is not self._real:
                self._real, self._shadow = real, None
        self._look_ahead()
        drawn = next(self._real)
        indices = drawn if self._batched else [drawn]
        if self._shadow is not None:
            if self._coming and _same(self._coming[0], drawn):
                self._samples -= _count(self._coming.popleft(), self._batched)
            else:  # it draws from generators that others draw from, too
                self._shadow, self._job.foreseen = None, False
                self._coming.clear()
                self._job.ahead.reset()
        if self._shadow is None:
            self._job.ahead.submit(list(indices))
        self._job.ahead.drawn(list(indices))
        return drawn

    def _look_ahead(self) -> None:
        while self._shadow is not None and (not self._coming or self._samples < self._job.ahead.samples()):
            coming = self._shadow.next()
            if coming is None:
                return
            self._coming.append(coming)
            self._samples += _count(coming, self._batched)
            self._job.ahead.submit(list(coming) if self._batched else [coming])


def _count(batch: Any, batched: bool) -> int:
    return len(batch) if batched else 1


def _same(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except (TypeError, ValueError, RuntimeError):
        return list(map(int, a)) == list(map(int, b))  # tensors, arrays


class AcceleratedLoader:
    """What is added to the class of a loader."""

    _ioaccel_job: Job
    _ioaccel_position: Position

    @property
    def _index_sampler(self) -> Any:
        sampler = super()._index_sampler  # type: ignore[misc]
        if isinstance(self.dataset, IterableDataset):  # type: ignore[attr-defined]
            return sampler
        self._ioaccel_prepare()
        return _Lookahead(sampler, self)

    def _ioaccel_prepare(self) -> None:
        """Loaders are also made anew from the arguments of others: then the data set knows the cache."""
        if "_ioaccel_job" not in self.__dict__:
            dataset = self.dataset  # type: ignore[attr-defined]
            settings = settings_of(dataset)
            assert settings is not None
            self.__dict__["_ioaccel_job"] = Job(dataset, settings, explain=False)
            self.__dict__["_ioaccel_position"] = Position()

    def __iter__(self) -> Any:
        self._ioaccel_prepare()
        self._ioaccel_job.begin(self.num_workers)  # type: ignore[attr-defined]
        with self._ioaccel_position.begin(self):
            iterator = super().__iter__()  # type: ignore[misc]
        iterator.__class__ = _measured(type(iterator))  # type: ignore[arg-type]
        iterator.__dict__["_ioaccel_loader"] = self
        return iterator

    def explain(self) -> Explanation:
        """Where prefetch knows from what samples read, and what each epoch waited for."""
        self._ioaccel_prepare()
        job = self._ioaccel_job
        job.collect()
        return Explanation(job.source(), job.epochs)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands: after the last batch that was taken from it."""
        self._ioaccel_prepare()
        return self._ioaccel_position.state_dict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next iteration goes on where the state was taken."""
        self._ioaccel_prepare()
        self._ioaccel_position.load(state)

    def __reduce__(self) -> Any:
        state = {k: v for k, v in self.__dict__.items() if not k.startswith("_ioaccel")}
        return _rebuilt, (type(self).__mro__[2], state)


class _MeasuredIterator:
    """What is added to the class of a loader's iterator."""

    def __next__(self) -> Any:
        loader = self._ioaccel_loader  # type: ignore[attr-defined]
        begun = time.perf_counter()
        try:
            batch = super().__next__()  # type: ignore[misc]
        except StopIteration:
            loader._ioaccel_position.ended()
            loader._ioaccel_job.end()
            raise
        epoch = loader._ioaccel_job.epochs[-1]
        epoch.waited += time.perf_counter() - begun
        epoch.batches += 1
        loader._ioaccel_position.taken()
        return batch


@functools.cache
def _measured(cls: type) -> type:
    if issubclass(cls, _MeasuredIterator):
        return cls
    return type(cls.__name__, (_MeasuredIterator, cls), {"__module__": cls.__module__})


@functools.cache
def _class_for(cls: type) -> type:
    return type(cls.__name__, (AcceleratedLoader, cls), {"__module__": cls.__module__})


def accelerated(loader: Any, dataset: Any, settings: Settings, explain: bool) -> Any:
    """A loader with the same settings, over a data set that was wrapped."""
    if isinstance(loader, AcceleratedLoader):
        return loader
    state = copy.copy(loader.__dict__)
    state["dataset"] = dataset
    state["_iterator"] = None  # a persistent iterator stays with its loader
    made = _rebuilt(type(loader), state)
    made.__dict__["_ioaccel_job"] = Job(dataset, settings, explain)
    made.__dict__["_ioaccel_position"] = Position()
    return made


def _rebuilt(cls: type, state: dict[str, Any]) -> Any:
    made: Any = object.__new__(_class_for(cls))
    made.__dict__.update(state)
    return made
