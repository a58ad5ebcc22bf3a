"""A copy of a sampler, run ahead of it.

The copy draws what the sampler will draw, as long as nobody else draws from the global generators in
between. It never changes a random state, nor the sampler.
"""

from __future__ import annotations

import copy
import itertools
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import BatchSampler, Dataset

from ioaccel.torch import random_state
from ioaccel.torch.outside import DATA, TORCHS, Shared, generators_outside, is_data

# How deep samplers stand in each other: a batch sampler, a distributed wrapper, the user's own.
_DEPTH = 4


class _Length:
    """Stands for a data set that a user's sampler holds: to ask how long it is changes nothing."""

    def __init__(self, dataset: Any) -> None:
        self.__dict__["_dataset"] = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getattr__(self, name: str) -> Any:
        raise Shared(f"the sampler uses its data set's .{name}, which a copy of it must not")

    def __setattr__(self, name: str, value: Any) -> None:
        raise Shared(f"the sampler changes its data set's .{name}, which a copy of it must not")

    def __getitem__(self, index: Any) -> Any:
        raise Shared("the sampler reads its data set, which a copy of it must not")


class Shadow:
    """The copy. ``None`` from `next` means that it has ended, or cannot go on."""

    def __init__(
        self, sampler: Iterable[Any], generators: list[torch.Generator], *, alone: bool = True
    ) -> None:
        """May raise anything: not every sampler can be copied. ``alone``: no other thread draws meanwhile."""
        # torch's own draw from the global generators once, for a seed or an order.
        self._once = _all_torchs(sampler)
        if not self._once and not (alone and threading.current_thread() is threading.main_thread()):
            raise Shared("other threads may draw from the global generators meanwhile")
        self._generators = [*generators, *generators_outside(sampler)]
        self._state: random_state.State | None = None
        with warnings.catch_warnings(), random_state.preserved(self._generators):
            warnings.simplefilter("ignore")
            if type(sampler) in (list, tuple, range):
                copied: Any = sampler  # to iterate over it changes nothing
            else:
                memo: dict[int, Any] = {id(g): g for g in self._generators}
                _keep_data(sampler, memo, _DEPTH)
                copied = copy.deepcopy(sampler, memo)
                if copied is sampler:
                    raise Shared("the sampler is its own copy")
            self._iterator: Iterator[Any] | None = iter(copied)

    def next(self) -> Any:
        """The next batch, or index; a batch is a list of its own."""
        return next(iter(self.next_many(1, lambda _: 1)), None)

    def next_many(self, wanted: int, weigh: Callable[[Any], int]) -> list[Any]:
        """The next batches, or indices, that weigh ``wanted`` together, or one; none at the end.

        To change the random states and put them back for each batch was a fifth of `Loader`'s time.
        """
        drawn: list[Any] = []
        if self._iterator is None:
            return drawn
        # What draws from the global generators once has done so, and may be run beside other threads.
        whole = not (self._once and self._state is not None)
        with warnings.catch_warnings(), random_state.preserved(self._generators, whole=whole):
            warnings.simplefilter("ignore")
            if self._state is not None:
                random_state.restore(self._state, self._generators, whole=whole)
            try:
                while wanted > 0 or not drawn:
                    batch = next(self._iterator)
                    # Samplers may use one list again.
                    drawn.append(list(batch) if isinstance(batch, list) else batch)
                    wanted -= weigh(batch)
                self._state = random_state.save(self._generators, whole=whole)
            except Exception:  # noqa: BLE001  # the sampler itself will raise it in its time
                self._iterator = None
        return drawn


def generators_of(loader: Any) -> list[torch.Generator]:
    """The generators of a loader and of its samplers, each once."""
    found: dict[int, torch.Generator] = {}

    def look(thing: Any, depth: int) -> None:
        if isinstance(thing, torch.Generator):
            found.setdefault(id(thing), thing)
        elif depth and hasattr(thing, "__dict__") and not isinstance(thing, (Dataset, torch.nn.Module)):
            for name, value in vars(thing).items():
                if name not in DATA:
                    look(value, depth - 1)

    look(loader.generator, 1)
    look(loader.batch_sampler if loader.batch_sampler is not None else loader.sampler, _DEPTH)
    return list(found.values())


def _keep_data(thing: Any, memo: dict[int, Any], depth: int) -> None:
    """Has the copy share what samplers only look at, and what may be huge."""
    for name, value in getattr(thing, "__dict__", {}).items():
        shared = is_data(thing, name, value)
        if type(thing) in TORCHS:
            shared = shared or isinstance(value, (list, tuple, torch.Tensor))
        if shared:
            memo[id(value)] = value if type(thing) in TORCHS else _Length(value)
        elif depth:
            _keep_data(value, memo, depth - 1)


def _all_torchs(sampler: Any) -> bool:
    """Whether a sampler and those inside it are torch's own, or plain lists."""
    for _ in range(_DEPTH):
        if type(sampler) in (list, tuple, range):
            return True
        if type(sampler) not in TORCHS:
            return False
        if type(sampler) is not BatchSampler:
            return True
        sampler = sampler.sampler
    return False


def drop(iterator: Iterator[Any], count: int) -> None:
    """Draws ``count`` times."""
    next(itertools.islice(iterator, count, count), None)
