"""A loader that goes on from a state gives what it would have given; with other ranks, none twice."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import DataSet, wait_for
from support import torch_data as td
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    WeightedRandomSampler,
)

import ioaccel
from ioaccel import Cache, ConfigError
from ioaccel.testing.seaweed import SeaweedS3
from ioaccel.torch import accelerate

COUNT = 23


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cache]:
    with ioaccel.connect(tmp_path_factory.mktemp("cache"), "8MB") as cache:
        yield cache


def saved(state: Any) -> Any:
    """Through a file, read back as one from strangers."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(9)


ORDERS: dict[str, Callable[[], dict[str, Any]]] = {
    "sequential": dict,
    "random": lambda: {"shuffle": True},
    "generator": lambda: {"shuffle": True, "generator": generator()},
    "own generator": lambda: {"sampler": RandomSampler(range(COUNT), generator=generator())},
    "weighted": lambda: {"sampler": WeightedRandomSampler([1.0] * COUNT, COUNT)},
    "distributed": lambda: {"sampler": DistributedSampler(range(COUNT), 2, 1)},  # type: ignore[arg-type]
    "eager": lambda: {"sampler": td.Eager(COUNT)},
    "lazily": lambda: {"sampler": td.Lazily(COUNT)},
    "batches": lambda: {"batch_sampler": BatchSampler(td.Eager(COUNT), 3, False)},
    "no batches": lambda: {"batch_size": None, "shuffle": True},
}


def loader_of(cache: Cache, order: str, workers: int = 0, dataset: Any = None) -> Any:
    arguments = ORDERS[order]()
    if "batch_sampler" not in arguments:
        arguments = {"batch_size": 3} | arguments
    plain = DataLoader(
        dataset or td.Numbers(COUNT, noisy=False),
        collate_fn=td.as_is,
        num_workers=workers,
        timeout=50 if workers else 0,
        **arguments,
    )
    return accelerate(plain, cache=cache)


@pytest.mark.parametrize("order", sorted(ORDERS))
def test_in_the_middle_of_an_epoch(cache: Cache, order: str) -> None:
    td.seed()
    loader = loader_of(cache, order)
    list(loader)  # an epoch that was finished
    for stop in (0, 1, 4, 10**6):
        iterator = iter(loader)
        list(itertools.islice(iterator, stop))
        state, states = saved(loader.state_dict()), td.state()
        rest = list(iterator)
        td.seed(5)  # another process has other random states ...
        if stop == 0 or order == "lazily":  # what was not drawn yet is drawn from those of the checkpoint
            restore(states)
        before = td.state()
        resumed = loader_of(cache, order)
        resumed.load_state_dict(state)
        assert resumed.state_dict() is state
        first = list(itertools.islice(resumed, 0, 1)) if stop == 1 and order != "lazily" else []
        assert first == rest[: len(first)]
        if first:
            resumed.load_state_dict(state)
        if stop < 10**6:
            assert list(resumed) == rest
            if order != "lazily" and stop:
                assert td.state() == before  # ... and keeps them: they are restored by whoever saved them


@pytest.mark.parametrize("kind", [td.Stream, td.SizedStream])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream(cache: Cache, kind: Any, workers: int) -> None:
    td.seed()

    def made() -> Any:
        return accelerate(
            DataLoader(kind(COUNT), 3, num_workers=workers, timeout=50 * bool(workers)), cache=cache
        )

    loader = made()
    iterator = iter(loader)
    list(itertools.islice(iterator, 3))
    state, states = saved(loader.state_dict()), td.state()
    rest = [td.plainly(batch) for batch in iterator]
    resumed = made()
    resumed.load_state_dict(state)
    restore(states)
    assert [td.plainly(batch) for batch in resumed] == rest


def restore(states: Any) -> None:
    import random

    import numpy as np

    torch.random.set_rng_state(torch.tensor(states[0], dtype=torch.uint8))
    random.setstate(states[1])
    kind, words, *rest = states[2]
    np.random.set_state((kind, np.array(words, np.uint32), *rest))  # noqa: NPY002


def test_noisy_samples_without_workers_go_on_with_the_random_states_of_the_checkpoint(cache: Cache) -> None:
    td.seed()
    loader = loader_of(cache, "random", dataset=td.Numbers(COUNT))
    iterator = iter(loader)
    list(itertools.islice(iterator, 3))
    state, states = saved(loader.state_dict()), td.state()
    rest = [td.plainly(batch) for batch in iterator]
    resumed = loader_of(cache, "random", dataset=td.Numbers(COUNT))
    resumed.load_state_dict(state)
    restore(states)
    assert [td.plainly(batch) for batch in resumed] == rest


@pytest.mark.parametrize("order", ["random", "lazily"])
@pytest.mark.parametrize("stop", [0, 2])
def test_what_workers_were_given_is_given_again(cache: Cache, order: str, stop: int) -> None:
    td.seed()
    loader = loader_of(cache, order, 2)
    iterator = iter(loader)
    list(itertools.islice(iterator, stop))
    state, states = saved(loader.state_dict()), td.state()
    rest, after = list(iterator), td.state()
    resumed = loader_of(cache, order, 2)
    resumed.load_state_dict(state)
    restore(states)
    assert (list(resumed), td.state()) == (rest, after)


class EagerBatches(td.Eager):
    """All batches are drawn by ``__iter__``."""

    def __iter__(self) -> Iterator[Any]:
        order = torch.randperm(self.count).tolist()
        return iter([order[n : n + 3] for n in range(0, self.count, 3)])


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("again", [0, 2])
def test_however_often_a_loader_asks_its_sampler(
    cache: Cache, persistent: bool, before: int, again: int
) -> None:
    """Twice with workers that it starts, once with those that have stayed, or none."""

    def loader(workers: int) -> Any:
        plain = DataLoader(
            td.Numbers(COUNT, noisy=False),
            batch_sampler=EagerBatches(COUNT),
            collate_fn=td.as_is,
            num_workers=workers,
            persistent_workers=persistent and workers > 0,
            timeout=50 if workers else 0,
        )
        return accelerate(plain, cache=cache)

    td.seed()
    one = loader(2)
    for _ in range(before):
        list(one)
    iterator = iter(one)
    list(itertools.islice(iterator, 3))
    state, rest = saved(one.state_dict()), list(iterator)
    td.seed(5)
    resumed = loader(again)
    resumed.load_state_dict(state)
    assert list(resumed) == rest


def test_repeated_and_with_another_number_of_workers(cache: Cache) -> None:
    td.seed()
    expected = list(loader_of(cache, "random"))
    td.seed()
    state, got = None, []
    for number, workers in enumerate((0, 2, 1, 0)):
        loader = loader_of(cache, "random", workers)
        if state is not None:
            td.seed(number + 50)
            loader.load_state_dict(state)
        iterator = iter(loader)
        got += itertools.islice(iterator, 2)
        state = saved(loader.state_dict())
        del iterator
    assert got == expected
    last = loader_of(cache, "random")
    last.load_state_dict(state)
    assert list(last) == []
    assert len(list(last)) == 8  # the next epoch is whole


def test_the_next_epoch_after_a_resumed_one(cache: Cache) -> None:
    loader = loader_of(cache, "distributed")
    loader.sampler.set_epoch(3)
    iterator = iter(loader)
    next(iterator)
    state = saved(loader.state_dict())
    rest = list(iterator)
    resumed = loader_of(cache, "distributed")
    resumed.load_state_dict(state)
    assert list(resumed) == rest
    assert resumed.sampler.epoch == 3
    for each in (loader, resumed):
        each.sampler.set_epoch(4)
    assert list(resumed) == list(loader)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("ranks", [(2, 3), (3, 1), (1, 2, 4), (4, 2, 2)])
def test_another_number_of_ranks(cache: Cache, shuffle: bool, ranks: tuple[int, ...]) -> None:
    count = 50

    def rank_of(rank: int, replicas: int) -> Any:
        sampler: Any = DistributedSampler(range(count), replicas, rank, shuffle)  # type: ignore[arg-type]
        sampler.set_epoch(2)
        plain = DataLoader(td.Numbers(count, noisy=False), 3, sampler=sampler, collate_fn=td.as_is)
        return accelerate(plain, cache=cache)

    seen: list[str] = []
    state = None
    for number, replicas in enumerate(ranks):
        loaders = [rank_of(rank, replicas) for rank in range(replicas)]
        for loader in loaders:
            if state is not None:
                loader.load_state_dict(state)
            iterator = iter(loader)
            batches = iterator if number == len(ranks) - 1 else itertools.islice(iterator, 2)
            seen += [name for batch in batches for (name,) in batch]
        state = saved(loaders[-1].state_dict())
    assert sorted(map(int, seen)) == list(range(count))


def test_another_number_of_ranks_with_a_sampler_of_the_users(cache: Cache) -> None:
    class Own(DistributedSampler[Any]):
        pass

    def made(replicas: int) -> Any:
        sampler: Any = Own(range(COUNT), replicas, 0)  # type: ignore[arg-type]
        return accelerate(DataLoader(td.Numbers(COUNT), sampler=sampler), cache=cache)

    loader = made(2)
    next(iter(loader))
    with pytest.raises(ConfigError, match="2 ranks and there are 3"):
        made(3).load_state_dict(loader.state_dict())


@pytest.mark.parametrize("wrong", [None, {}, {"version": 99}, [], "state"])
def test_what_is_no_state(cache: Cache, wrong: Any) -> None:
    with pytest.raises(ConfigError, match="no state"):
        loader_of(cache, "random").load_state_dict(wrong)


def test_prefetch_begins_where_the_epoch_goes_on(s3: SeaweedS3, bucket: str, tmp_path: Path) -> None:
    data = DataSet.fill(s3, bucket, [1000] * 40)
    options = s3.storage_options
    with ioaccel.connect(tmp_path, "8MB", options) as cache:

        def made() -> Any:
            return accelerate(DataLoader(td.Told(data.urls, options), 4, collate_fn=td.as_is), cache=cache)

        loader = made()
        iterator = iter(loader)
        list(itertools.islice(iterator, 5))
        state = loader.state_dict()
        list(iterator)
        cache.evict(data.urls[0].rpartition("/")[0] + "/")
        resumed = made()
        resumed.load_state_dict(state)
        iterator = iter(resumed)
        assert [index for index, _ in next(iterator)] == [20, 21, 22, 23]
        wait_for(lambda: all(cache.resident(data.urls[20:])), 20)
        assert not any(cache.resident(data.urls[:20]))
