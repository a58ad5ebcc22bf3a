"""A loader whose sampler is looked ahead of, and whose waits are measured."""

from __future__ import annotations

import contextlib
import functools
import logging
import operator
import pickle
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any, cast

import msgspec
from torch.utils.data import IterableDataset
from torch.utils.data.dataloader import _BaseDataLoaderIter

from ioaccel.client.reader import Reader
from ioaccel.errors import ConfigError
from ioaccel.plan.ahead import Ahead
from ioaccel.torch.dataset import Note, Settings, as_number, inner_of, settings_of
from ioaccel.torch.explain import Epoch, Explanation
from ioaccel.torch.resume import Place, Position
from ioaccel.torch.shadow import Shadow
from ioaccel.torch.tally import Tally

log = logging.getLogger("ioaccel")


# Of a loader that somebody has made of an accelerated one's class.
_PLAIN = (
    "this loader was made anew, over a data set that is not accelerated: nothing is cached, nor resumed; "
    "accelerate() it, or the data set that it is made with"
)

# The copy of a sampler goes on when so much of the window is left: a few batches at a time.
_REFILL = 0.75


class Job:
    """One accelerated loader in the process that iterates over it.

    Nothing that goes wrong here may end an epoch: it is all for the sake of speed.
    """

    def __init__(self, dataset: Any, settings: Settings, explain: bool) -> None:
        self.settings = settings
        self.explain = explain
        self.reads = settings.reads(inner_of(dataset))
        self.stores = settings.stores
        self._met = set(settings.stores)
        self.ahead = Ahead(self.reads, self.stores, self._collect)
        self.epochs: list[Epoch] = []
        self.refused: dict[str, str] = {}
        self.unforeseen = ""  # why the sampler cannot be looked ahead of
        if settings.tally is None or not settings.tally.is_here:
            settings.tally = Tally()
        self._tally = settings.tally
        self._counts = self._tally.counts()

    def begin(self, workers: int) -> Epoch:
        """An epoch begins; the one before may have been left half way."""
        self.keep()
        self.ahead.reset()
        epoch = Epoch(workers=max(workers, 1))
        self.epochs.append(epoch)
        self.settings.rules, self.settings.exact = self.reads.rules, self.reads.exact
        self.settings.calm = self.ahead.calm
        return epoch

    def end(self, epoch: Epoch) -> None:
        """It was gone through."""
        self.keep()
        if self.explain:  # it was asked for
            number = self.epochs.index(epoch) + 1
            print(self.explanation([epoch], number))  # noqa: T201

    def keep(self) -> None:
        """Learns what workers told, and writes it down."""
        with self.ahead.resting():
            self._collect()
            self.reads.keep()

    def explanation(self, epochs: list[Epoch], first: int = 1) -> Explanation:
        """What is known now."""
        with self.ahead.resting():
            self._collect()
            source = self.reads.source()
        if any(e.samples for e in self.epochs) and not any(e.served for e in self.epochs):
            source = (
                "no read of a sample was served by the cache: that takes fsspec, ioaccel, or open() below "
                "paths=[...], in the thread that the sample is asked for in (zarr and others read in threads "
                "of their own: give them ioaccel::s3:// URLs); see ioaccel doctor --dataset module:name"
            )
        if self.unforeseen:
            source += (
                f"; the sampler cannot be looked ahead of ({self.unforeseen}), so each batch is fetched "
                "when it is drawn"
            )
        return Explanation(source, epochs, first, dict(self.refused))

    def _collect(self) -> bool:
        """Learns what workers have counted and told, while the planner rests; whether that was new."""
        before, self._counts = self._counts, self._tally.counts()
        if self.epochs:
            self.epochs[-1].add(before, self._counts)
        self.ahead.waited(self._counts.store - before.store, self._counts.disk - before.disk)
        learnt = False
        if self._counts.notes != before.notes or not self._tally.shared:
            try:
                for data in self.settings.reader.collect(self.settings.board):
                    learnt |= self._learn(msgspec.msgpack.decode(data, type=Note))
            except Exception as error:  # noqa: BLE001  # the cache was closed
                log.debug("notes: %s", error)
        return learnt

    def _learn(self, note: Note) -> bool:
        learnt = False
        for store, reader in note.stores.items():
            learnt |= store not in self._met
            self._met.add(store)
            if store not in self.stores:  # without workers the data set has put it there
                found: Reader = pickle.loads(reader)  # noqa: S301  # a worker of ours
                self.stores[store] = self.settings.reader.adopt(found)
        for index, reads in note.reads:
            learnt |= self.reads.learn(index, reads)
        self.reads.record(note.reads)
        for what, why in note.refused.items():
            self.refused.setdefault(what, why)
        return learnt


class _Lookahead:
    """Stands for the sampler: yields the same, and tells the plan what comes."""

    def __init__(self, sampler: Any, loader: Any) -> None:
        self._sampler = sampler
        self._loader = weakref.ref(loader)  # which holds its iterator, which holds this

    def __len__(self) -> int:
        return len(self._sampler)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._sampler, name)

    def __iter__(self) -> Iterator[Any]:
        loader = self._loader()
        place = loader._ioaccel_position.beginning if loader is not None else None
        if loader is None or place is None:
            return iter(self._sampler)
        return _Draws(self._sampler, loader, place)


class _Draws:
    """The draws of one epoch."""

    def __init__(self, sampler: Any, loader: Any, place: Place) -> None:
        self._job: Job = loader._ioaccel_job
        self._place = place
        self._batched = loader._auto_collation
        self._shadow: Shadow | None = None
        self._coming: deque[Any] = deque()
        self._samples = 0
        self._draws = 0
        self._begun = False
        place.ask_sampler()
        try:
            alone = not getattr(loader, "_ioaccel_threads", False)
            self._shadow = Shadow(sampler, place.generators, alone=alone)
        except Exception as error:  # noqa: BLE001  # not every sampler can be copied
            self._job.unforeseen = str(error) or type(error).__name__
        self._real = iter(sampler)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if not self._begun:
            self._begun = True
            self._real, self._shadow = self._place.first_draw(self._real, self._shadow)
        self._look_ahead()
        drawn = next(self._real)
        self._draws += 1
        self._place.drawn = max(self._place.drawn, self._place.skip + self._draws)
        if self._shadow is not None:
            if self._coming and _same(self._coming[0], drawn):
                self._samples -= self._count(self._coming.popleft())
            else:  # it draws from generators that others draw from, too
                self._shadow = None
                self._job.unforeseen = "it did not draw what its copy had drawn"
                self._coming.clear()
                self._job.ahead.reset()
        numbers = self._numbers(drawn)
        if self._shadow is None:
            self._job.ahead.submit(numbers)
        self._job.ahead.drawn(numbers)
        return drawn

    def _look_ahead(self) -> None:
        window = self._job.ahead.samples()
        if self._shadow is None or (self._coming and self._samples > _REFILL * window):
            return
        for coming in self._shadow.next_many(window - self._samples, self._count):
            self._coming.append(coming)
            self._samples += self._count(coming)
            self._job.ahead.submit(self._numbers(coming))

    def _numbers(self, drawn: Any) -> list[int]:
        """The indices in what was drawn that are numbers; an iterator is not ours to draw from."""
        indices = drawn if self._batched else [drawn]
        if not hasattr(indices, "__len__"):
            return []
        try:
            return list(map(operator.index, indices))
        except TypeError:
            pass
        try:
            return [number for number in map(as_number, indices) if number is not None]
        except TypeError:
            return []

    def _count(self, batch: Any) -> int:
        """One at the least, or a sampler of empty batches would be run for ever."""
        return max(len(batch), 1) if self._batched and hasattr(batch, "__len__") else 1


def _same(a: Any, b: Any) -> bool:
    """Whether the copy drew what the sampler drew. Anything may be an index."""
    with contextlib.suppress(Exception):  # tensors and arrays have no one truth
        return bool(a == b)
    with contextlib.suppress(Exception):
        return [*map(int, a)] == [*map(int, b)]
    return False


class AcceleratedLoader:
    """What is added to the class of a loader."""

    _ioaccel_job: Job
    _ioaccel_position: Position

    @property
    def _index_sampler(self) -> Any:
        sampler = super()._index_sampler  # type: ignore[misc]
        if isinstance(self.dataset, IterableDataset) or not self._ioaccel_prepare():  # type: ignore[attr-defined]
            return sampler
        return _Lookahead(sampler, self)

    def _ioaccel_prepare(self) -> bool:
        """Whether the data set knows the cache: loaders are also made anew from the arguments of others."""
        if "_ioaccel_job" not in self.__dict__:
            dataset = self.dataset  # type: ignore[attr-defined]
            settings = settings_of(dataset)
            if settings is None:
                if not self.__dict__.setdefault("_ioaccel_told", False):
                    self.__dict__["_ioaccel_told"] = True
                    log.warning("%s", _PLAIN)
                return False
            self.__dict__["_ioaccel_job"] = Job(dataset, settings, explain=False)
            self.__dict__["_ioaccel_position"] = Position()
        return True

    def _get_iterator(self) -> Any:
        if not self._ioaccel_prepare():
            return super()._get_iterator()  # type: ignore[misc]
        with begun(self) as (epoch, place):
            iterator = super()._get_iterator()  # type: ignore[misc]
            if isinstance(iterator, _BaseDataLoaderIter):
                iterator.__class__ = _measured(cast("Any", type(iterator)))
                iterator.__dict__["_ioaccel_on"] = self._ioaccel_job, epoch, place
                _catch_up(iterator, self.dataset, place)  # type: ignore[attr-defined]
        return iterator

    def explain(self) -> Explanation:
        """Where prefetch knows from what samples read, and what each epoch waited for."""
        if not self._ioaccel_prepare():
            return Explanation(_PLAIN)
        return self._ioaccel_job.explanation(self._ioaccel_job.epochs)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands: after the last batch that was taken from it."""
        if not self._ioaccel_prepare():
            plain = getattr(super(), "state_dict", None)
            return plain() if plain is not None else {}
        return self._ioaccel_position.state_dict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next iteration goes on where the state was taken."""
        if not self._ioaccel_prepare():
            plain = getattr(super(), "load_state_dict", None)
            if plain is not None:
                plain(state)
            elif state:
                raise ConfigError(_PLAIN)
            return
        self._ioaccel_position.load(state, self)

    def __reduce__(self) -> Any:
        state = {k: v for k, v in self.__dict__.items() if not k.startswith("_ioaccel")}
        return _rebuilt, (type(self).__mro__[2], state)


@contextlib.contextmanager
def begun(loader: Any) -> Iterator[tuple[Epoch, Place]]:
    """Around the making of an iterator over an accelerated loader."""
    epoch = loader._ioaccel_job.begin(loader.num_workers)
    with loader._ioaccel_position.begin(loader) as place:
        yield epoch, place


def _catch_up(iterator: Any, dataset: Any, place: Place) -> None:
    """A stream has no sampler that could be moved on: what was handed out is read again, and dropped."""
    if isinstance(dataset, IterableDataset):
        with contextlib.suppress(StopIteration):
            for _ in range(place.skip):
                super(_MeasuredIterator, iterator).__next__()


class _MeasuredIterator:
    """What is added to the class of a loader's iterator."""

    _ioaccel_on: tuple[Job, Epoch, Place]

    def _reset(self, loader: Any, first_iter: bool = False) -> None:
        with begun(loader) as (epoch, place):
            self._ioaccel_on = loader._ioaccel_job, epoch, place
            super()._reset(loader, first_iter)  # type: ignore[misc]
            _catch_up(self, loader.dataset, place)

    def __next__(self) -> Any:
        job, epoch, place = self._ioaccel_on
        begun = time.perf_counter()
        try:
            batch = super().__next__()  # type: ignore[misc]
        except StopIteration:
            if not place.ended:
                place.ended = True
                job.end(epoch)
            raise
        epoch.waited += time.perf_counter() - begun
        epoch.batches += 1
        place.batches += 1
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
    plain = loader.dataset
    # Some keep what the loader was made with, to make another (Lightning: __pl_saved_kwargs).
    state = {name: _exchanged(value, plain, dataset) for name, value in loader.__dict__.items()}
    state["dataset"] = dataset
    state["_iterator"] = None  # a persistent iterator stays with its loader
    made = _rebuilt(type(loader), state)
    made.__dict__["_ioaccel_job"] = Job(dataset, settings, explain)
    made.__dict__["_ioaccel_position"] = Position()
    return made


def _exchanged(value: Any, plain: Any, dataset: Any) -> Any:
    """``value``, with the wrapped data set in place of the plain one, where it is among arguments."""
    if type(value) in (dict, OrderedDict):
        if any(each is plain for each in value.values()):
            return type(value)((k, dataset if each is plain else each) for k, each in value.items())
    elif type(value) in (tuple, list) and any(each is plain for each in value):
        return type(value)(dataset if each is plain else each for each in value)
    return value


def _rebuilt(cls: type, state: dict[str, Any]) -> Any:
    made: Any = object.__new__(_class_for(cls))
    made.__dict__.update(state)
    return made
