"""A copy of a sampler, run ahead of it.

The copy draws what the sampler will draw, as long as nobody else draws from the global generators in
between. It never changes a random state, nor the sampler.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ioaccel.torch import random_state

# Attributes under which samplers keep what they draw from.
_DATA = ("data_source", "dataset")

# How deep samplers stand in each other: a batch sampler, a distributed wrapper, the user's own.
_DEPTH = 4


class Shadow:
    """The copy. ``None`` from `next` means that it has ended, or cannot go on."""

    def __init__(self, sampler: Iterable[Any], generators: list[torch.Generator]) -> None:
        """May raise anything: not every sampler can be copied."""
        self._generators = generators
        self._state: random_state.State | None = None
        with warnings.catch_warnings(), random_state.preserved(generators):
            warnings.simplefilter("ignore")
            memo: dict[int, Any] = {id(g): g for g in generators}
            _keep_data(sampler, memo, _DEPTH)
            self._copy = copy.deepcopy(sampler, memo)
            self._iterator: Iterator[Any] | None = iter(self._copy)

    def next(self) -> Any:
        """The next batch, or index."""
        if self._iterator is None:
            return None
        with random_state.preserved(self._generators):
            if self._state is not None:
                random_state.restore(self._state, self._generators)
            try:
                batch = next(self._iterator)
            except Exception:  # noqa: BLE001  # the sampler itself will raise it in its time
                self._iterator = None
                return None
            self._state = random_state.save(self._generators)
        return batch


def generators_of(loader: Any) -> list[torch.Generator]:
    """The generators of a loader and of its samplers, each once."""
    found: dict[int, torch.Generator] = {}

    def look(thing: Any, depth: int) -> None:
        if isinstance(thing, torch.Generator):
            found.setdefault(id(thing), thing)
        elif depth and hasattr(thing, "__dict__") and not isinstance(thing, (Dataset, torch.nn.Module)):
            for name, value in vars(thing).items():
                if name not in _DATA:
                    look(value, depth - 1)

    look(loader.generator, 1)
    look(loader.batch_sampler if loader.batch_sampler is not None else loader.sampler, _DEPTH)
    return list(found.values())


def _keep_data(thing: Any, memo: dict[int, Any], depth: int) -> None:
    """Has the copy share what samplers only look at, and what may be huge."""
    for name, value in getattr(thing, "__dict__", {}).items():
        if name in _DATA or isinstance(value, (Dataset, DataLoader, torch.nn.Module)):
            memo[id(value)] = value
        elif depth:
            _keep_data(value, memo, depth - 1)
