"""``accelerate``: the data set is the one inside, but that the cache serves its reads."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support import DataSet
from support import torch_data as td
from support.accelerate import COUNT, Options, epoch, expected, loader_of, total, unpickled
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, random_split

from ioaccel import Cache
from ioaccel.testing.countproxy import CountingProxy
from ioaccel.torch import accelerate


def test_a_data_set_that_looks_all_names_up(any_cache: Cache) -> None:
    class Looks(Dataset[Any]):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):  # torch asks for __getitems__
                raise AttributeError(name)
            return {"known": 1}[name]

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> int:
            return index

    data = accelerate(Looks(), cache=any_cache)
    assert [data[n] for n in range(len(data))] == [0, 1, 2]
    assert list(accelerate(loader_of(Looks()), cache=any_cache)) == [[0, 1, 2]]


class Busy(Dataset[Any]):
    """Has all that a data set may have."""

    where: Any = "class"

    def __init__(self) -> None:
        self.values = list(range(10))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> Any:
        return self.values[index]

    def __iter__(self) -> Iterator[Any]:
        return iter([*self.values, "iterated"])

    def __contains__(self, value: object) -> bool:
        return value == "contained"

    def __call__(self, value: Any) -> Any:
        return "called", value

    def __enter__(self) -> Any:
        return "entered"

    def __exit__(self, *_: object) -> None:
        pass

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Busy)

    __hash__ = None  # type: ignore[assignment]

    def method(self) -> Any:
        return self.values[-1], self.where

    @property
    def fails(self) -> Any:
        raise RuntimeError("a property")


def test_it_is_the_data_set_inside(any_cache: Cache) -> None:
    plain = Busy()
    dataset = accelerate(plain, cache=any_cache)
    assert isinstance(dataset, Busy)
    assert isinstance(dataset, Dataset)
    assert (len(dataset), dataset[3], dataset[2:5], dataset[-1]) == (10, 3, [2, 3, 4], 9)
    assert list(dataset)[-1] == "iterated"
    assert "contained" in dataset
    assert 3 not in dataset
    assert dataset(1) == ("called", 1)
    with dataset as entered:
        assert entered == "entered"
    assert dataset == plain
    with pytest.raises(TypeError):
        hash(dataset)
    dataset.values.append(10)
    dataset.where = "instance"
    assert plain.method() == dataset.method() == (10, "instance")
    assert vars(dataset) == vars(plain)
    del dataset.where
    assert plain.where == "class"
    assert "method" in dir(dataset)
    assert repr(plain) in repr(dataset)
    for wrong in ("nothing", "_ioaccel_nothing", "__nothing__"):
        with pytest.raises(AttributeError, match=wrong):
            getattr(dataset, wrong)
    with pytest.raises(RuntimeError, match="a property"):
        _ = dataset.fails
    with pytest.raises(IndexError):
        dataset[11]
    assert accelerate(dataset) is dataset


def test_copies_and_pickles_of_a_data_set(any_cache: Cache) -> None:
    dataset = accelerate(td.Numbers(5), cache=any_cache)
    for same in (copy.copy(dataset), copy.deepcopy(dataset), unpickled(dataset)):
        assert type(same) is type(dataset)
        assert isinstance(same, td.Numbers)
        same.count = 6
        assert (len(same), len(dataset)) == (6, 5)


def test_parts_and_sums_of_data_sets(any_cache: Cache) -> None:
    plain = td.Numbers(10, noisy=False)
    dataset = accelerate(plain, cache=any_cache)
    generator = torch.Generator()
    for parts in (
        lambda d: list(Subset(d, [1, 5])),
        lambda d: Subset(d, [1, 5]).__getitems__([0, 1]),
        lambda d: list(ConcatDataset([d, d])),
        lambda d: list(d + d),
        lambda d: [list(p) for p in random_split(d, [0.5, 0.5], generator.manual_seed(0))],
        lambda d: list(DataLoader(Subset(d, range(5)), 2)),
    ):
        assert parts(dataset) == parts(plain)
    assert list(accelerate(plain + plain, cache=any_cache)) == list(plain + plain)


def test_streams(any_cache: Cache) -> None:
    for cls in (td.Stream, td.SizedStream):
        dataset = accelerate(cls(10), cache=any_cache)
        assert isinstance(dataset, IterableDataset)
        assert isinstance(dataset, cls)
        assert hasattr(dataset, "__len__") == (cls is td.SizedStream)
        for workers in (0, 2):
            plain = loader_of(cls(10), num_workers=workers)
            loader = accelerate(loader_of(dataset, num_workers=workers))
            td.seed()
            before = [*plain, td.state()]
            td.seed()
            assert [*loader, td.state()] == before
        if cls is td.SizedStream:
            assert len(loader) == len(plain)
        else:
            with pytest.raises(TypeError, match="has no len"):
                len(loader)


def test_a_stream_is_served_by_the_cache(
    cache: Cache, data: DataSet, options: Options, proxy: CountingProxy
) -> None:
    loader = accelerate(loader_of(td.Stream(COUNT, data.urls, options), num_workers=2), cache=cache)
    assert epoch(loader) == expected(data)
    assert total(proxy) == COUNT
    assert epoch(loader) == expected(data)
    assert total(proxy) == 0
    assert loader.explain().epochs[0].samples == COUNT  # type: ignore[attr-defined]


def test_a_data_set_alone_explains_itself(cache: Cache, data: DataSet, options: Options) -> None:
    told: Any = accelerate(td.Told(data.urls, options), cache=cache)
    assert "is not known before it is read" in str(told.explain())
    assert told[0] == (0, expected(data)[0])
    assert "in .samples: prefetch is exact. This is a data set alone" in str(told.explain())
    refused: Any = accelerate(td.Objects(data.urls, options | {"version_aware": True}), cache=cache)
    assert refused[0] == (0, expected(data)[0])
    assert "not accelerated: s3://" in str(refused.explain())
    own: Any = accelerate(td.Numbers(), cache=cache)
    own.explain = lambda: "mine"
    assert own.explain() == "mine"


def test_a_stream_goes_on_after_an_error(cache: Cache) -> None:
    def through(loader: Any) -> list[Any]:
        found: list[Any] = []
        batches = iter(loader)
        while True:
            try:
                found.append(next(batches))
            except StopIteration:
                return found
            except LookupError as error:
                found.append(str(error))

    plain = DataLoader(td.StumblingStream(), batch_size=None)
    assert through(accelerate(plain, cache=cache)) == through(plain)
