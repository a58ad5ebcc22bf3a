"""An accelerated loader gives what the plain one gives, bit for bit, and leaves random states as it does.

Each example is run twice from the same random states, plain and accelerated: several epochs, some of them
abandoned, with a training loop that draws random numbers of its own between batches.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from support import torch_data as td
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

import ioaccel
from ioaccel import Cache
from ioaccel.torch import accelerate

COUNT = 18


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cache]:
    with ioaccel.connect(tmp_path_factory.mktemp("cache"), "8MB") as cache:
        yield cache


def generator() -> torch.Generator:
    made = torch.Generator()
    made.manual_seed(11)
    return made


def shared_generator() -> dict[str, Any]:
    one = generator()
    return {"sampler": RandomSampler(td.Numbers(COUNT), generator=one), "generator": one}


def one_shot() -> dict[str, Any]:
    return {"sampler": (i for i in range(COUNT)), "batch_size": 4}


def around() -> dict[str, Any]:
    """A sampler whose order lies in a variable around it: a copy would share it."""
    order = list(range(COUNT))

    class Around(td.Eager):
        def __iter__(self) -> Iterator[int]:
            random.shuffle(order)
            return iter(list(order))

    return {"sampler": Around(COUNT)}


def called() -> dict[str, Any]:
    """An iterator that calls a function for each index."""
    steps = iter(range(10**6))
    return {"sampler": iter(lambda: next(steps) % COUNT, COUNT - 1), "batch_size": 4}


def custom(cls: type[Any], **kwargs: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"sampler": cls(COUNT), **kwargs}


def batched(cls: type[Any]) -> Callable[[], dict[str, Any]]:
    return lambda: {"batch_sampler": cls(COUNT)}


def torchs(make: Callable[[], Any]) -> Callable[[], dict[str, Any]]:
    return lambda: {"sampler": make()}


# The arguments of a loader that have to do with order. Those that workers can be given come first.
ORDERS: dict[str, Callable[[], dict[str, Any]]] = {
    "sequential": dict,
    "random": lambda: {"shuffle": True},
    "random, generator": lambda: {"shuffle": True, "generator": generator()},
    "one generator for both": shared_generator,
    "replacement": torchs(lambda: RandomSampler(range(COUNT), replacement=True, num_samples=50)),
    "weighted": torchs(lambda: WeightedRandomSampler([*range(1, COUNT + 1)], 25)),
    "subset": torchs(lambda: SubsetRandomSampler([3, 1, 4, 1, 5, 9, 2, 6])),
    "distributed": torchs(lambda: DistributedSampler(td.Numbers(COUNT), 3, 1)),
    "eager": custom(td.Eager),
    "lazily": custom(td.Lazily),
    "in place": custom(td.InPlace),
    "generator of a module": custom(td.OfItsModule),
    "generator of a class": custom(td.OfItsClass),
    "changes a global": custom(td.ChangesAGlobal),
    "uncopied": custom(td.Uncopied),
    "around": around,
    "called": called,
    "raises": custom(td.Raises),
    "endless": custom(td.Endless),
    "kinds": custom(td.Kinds),
    "one shot": one_shot,
    "batches": lambda: {"batch_sampler": BatchSampler(td.Eager(COUNT), 5, True)},
    "batches in a list": lambda: {"batch_sampler": [[0, 1], [5], [2, 3, 4], []]},
    "batches in one list": batched(td.OneList),
    "batches that are iterators": batched(td.Maps),
    "empty batches": batched(td.Empties),
}

SETS: dict[str, Callable[[], Any]] = {
    "numbers": lambda: td.Numbers(COUNT),
    "many": lambda: td.ManyNumbers(COUNT),
    "subset": lambda: Subset(td.Numbers(COUNT * 2), range(COUNT)),
    "concatenation": lambda: ConcatDataset([td.Numbers(7), td.Numbers(COUNT - 7)]),
}


def loader_of(order: str, data: str, options: dict[str, Any]) -> DataLoader[Any]:
    td.seed(1)
    td.GLOBAL.bit_generator.state = np.random.default_rng(3).bit_generator.state
    td.GLOBAL_ORDER[:] = range(20)
    td.OfItsClass.rng.seed(5)
    arguments = ORDERS[order]()
    if "batch_sampler" not in arguments:
        arguments = {**options["batched"], **arguments}
    return DataLoader(
        SETS[data](),
        collate_fn=td.as_is,
        timeout=50 if options["workers"] else 0,
        num_workers=options["workers"],
        multiprocessing_context=options["method"] if options["workers"] else None,
        persistent_workers=options["persistent"] and options["workers"] > 0,
        **arguments,
    )


def story(loader: Any, stops: list[int], draws: list[int]) -> list[Any]:
    """All that can be seen of some epochs: batches, errors, and every random state after each batch."""
    told: list[Any] = []
    sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    inner = getattr(sampler, "sampler", sampler)
    for epoch, stop in enumerate(stops):
        if hasattr(inner, "set_epoch"):
            inner.set_epoch(epoch)
        try:
            iterator = iter(loader)
            for number in range(stop):
                batch = next(iterator)
                states = td.state(), loader.generator and loader.generator.get_state().tolist()
                told.append((td.plainly(batch), states))
                for what in draws[number % len(draws) :][:1]:
                    (torch.rand, np.random.random, random.random, lambda *_: 0)[what](*[1][: what < 2])
            told.append(td.state())
        except StopIteration:
            told.append("end")
        except Exception as error:  # noqa: BLE001  # compared
            told.append((type(error), str(error).partition("Original")[0]))
        told.append(td.state())
        del iterator
    try:
        told.append(len(loader))
    except TypeError as error:
        told.append(str(error))
    td.shut(loader)
    return told


def same(
    cache: Cache, order: str, data: str, options: dict[str, Any], stops: list[int], draws: list[int]
) -> None:
    plain = story(loader_of(order, data, options), stops, draws)
    made = loader_of(order, data, options)
    before = td.state()
    loader = accelerate(made, cache=cache)
    assert td.state() == before
    assert isinstance(loader, DataLoader)
    assert type(loader).__name__ == "DataLoader"
    assert story(loader, stops, draws) == plain


STORIES = {
    "stops": st.lists(st.sampled_from([0, 1, 3, 40]), min_size=1, max_size=3),
    "draws": st.lists(st.integers(0, 3), min_size=1, max_size=4),
    "data": st.sampled_from(sorted(SETS)),
    "batched": st.sampled_from(
        [
            {},
            {"batch_size": 4},
            {"batch_size": 4, "drop_last": True},
            {"batch_size": None},
            {"batch_size": 100},
        ]
    ),
}


@given(order=st.sampled_from(sorted(ORDERS)), **STORIES)
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@pytest.mark.timeout(120)
def test_without_workers(
    cache: Cache, order: str, stops: list[int], draws: list[int], data: str, batched: dict[str, Any]
) -> None:
    options = {"batched": batched, "workers": 0, "method": None, "persistent": False}
    same(cache, order, data, options, stops, draws)


@pytest.mark.parametrize("order", sorted(ORDERS))
def test_each_order(cache: Cache, order: str) -> None:
    options: dict[str, Any] = {
        "batched": {"batch_size": 4},
        "workers": 0,
        "method": None,
        "persistent": False,
    }
    same(cache, order, "numbers", options, [40, 2, 40], [0, 1, 2])
    same(cache, order, "numbers", options, [40, 2, 40], [3])


# Iterators cannot be sent to workers; and a list that is used again may be sent after it was, plain or not.
WITH_WORKERS = sorted(ORDERS.keys() - {"batches that are iterators", "batches in one list"})


@given(
    order=st.sampled_from(WITH_WORKERS),
    workers=st.sampled_from([1, 2]),  # torch warns of more than there are cores
    persistent=st.booleans(),
    **STORIES,
)
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@pytest.mark.timeout(240)
def test_with_workers(
    cache: Cache,
    order: str,
    stops: list[int],
    draws: list[int],
    data: str,
    batched: dict[str, Any],
    workers: int,
    persistent: bool,
) -> None:
    options = {"batched": batched, "workers": workers, "method": "fork", "persistent": persistent}
    same(cache, order, data, options, stops, draws)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_start_methods(cache: Cache, method: str) -> None:
    options = {"batched": {"batch_size": 4}, "workers": 1, "method": method, "persistent": True}
    same(cache, "random", "numbers", options, [40, 2], [0, 1])


def test_a_directory_of_a_test_is_not_in_the_way(tmp_path: Path, cache: Cache) -> None:
    """With paths=, too, random states stay as they are."""
    plain = DataLoader(td.Numbers(COUNT), shuffle=True)
    td.seed()
    expected = [td.plainly(b) for b in plain], td.state()
    td.seed()
    loader = accelerate(plain, cache=cache, paths=[tmp_path])
    assert ([td.plainly(b) for b in loader], td.state()) == expected
