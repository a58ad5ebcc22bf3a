"""``accelerate``: everything is as it was, but that each byte is fetched once, and before it is asked for."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import random
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import DataSet, kill_engine, run_python, wait_for
from support import torch_data as td
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, random_split

import ioaccel
from ioaccel import Cache, ConfigError
from ioaccel.client.reader import Reader
from ioaccel.testing.countproxy import CountingProxy, Fault
from ioaccel.testing.seaweed import SeaweedS3
from ioaccel.torch import accelerate

COUNT = 40
Options = dict[str, Any]


@pytest.fixture(scope="module")
def data(s3: SeaweedS3) -> DataSet:
    s3.create_bucket("torch-accelerate")
    return DataSet.fill(s3, "torch-accelerate", [1000 * n + 1 for n in range(COUNT)])


@pytest.fixture(scope="module")
def proxy(s3: SeaweedS3) -> Iterator[CountingProxy]:
    with CountingProxy(s3.endpoint) as proxy:
        yield proxy


@pytest.fixture
def options(s3: SeaweedS3, proxy: CountingProxy) -> Options:
    proxy.reset()
    return s3.storage_options | {"endpoint_url": proxy.endpoint}


@pytest.fixture
def cache(tmp_path: Path, options: Options) -> Iterator[Cache]:
    with ioaccel.connect(tmp_path / "cache", "50MB", options) as cache:
        yield cache


@pytest.fixture(scope="module")
def any_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cache]:
    """For tests that do not read."""
    with ioaccel.connect(tmp_path_factory.mktemp("any"), "8MB") as cache:
        yield cache


def loader_of(dataset: Any, **kwargs: Any) -> DataLoader[Any]:
    workers = {"timeout": 50} if kwargs.get("num_workers") else {}
    return DataLoader(dataset, **{"batch_size": 4, "collate_fn": td.as_is} | workers | kwargs)


def epoch(loader: Any) -> dict[int, bytes]:
    return {index: sample for batch in loader for index, sample in batch}


def expected(data: DataSet) -> dict[int, bytes]:
    return dict(enumerate(map(data.data, data.urls)))


def total(proxy: CountingProxy) -> int:
    return proxy.reset().requests.total()


# ---- the loader ---------------------------------------------------------------------------------


def initialize(number: int) -> None:
    """A worker_init_fn."""


def test_what_is_held_for_a_batch_is_not_fetched_once_more(
    data: DataSet, options: Options, proxy: CountingProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What passes by the cache is missing still when the rest of a batch is looked after."""
    waited = 0.0

    class Slow(td.Told):
        def __getitem__(self, index: int) -> Any:
            nonlocal waited
            waited += 1  # each sample has the rest looked after
            return super().__getitem__(index)

    with ioaccel.connect(tmp_path, 1, options) as cache:  # holds nothing
        dataset = accelerate(Slow(data.urls, options), cache=cache)
        dataset.__getitems__(range(1))
        total(proxy)
        monkeypatch.setattr(Reader, "disk_seconds", property(lambda _: waited))
        assert [index for index, _ in dataset.__getitems__(range(1, 21))] == list(range(1, 21))
        assert total(proxy) == 20


def test_who_waits_for_a_disk_tells_it_of_the_rest_of_the_batch(
    cache: Cache, data: DataSet, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sample by sample, each would wait behind all that others have asked the disk for."""
    waited = 0.0

    class Slow(td.Told):
        def __getitem__(self, index: int) -> Any:
            nonlocal waited
            waited += index == 3
            return super().__getitem__(index)

    hints: list[tuple[int, bool]] = []
    missing = Reader.missing

    def recorded(self: Reader, extents: Any, *, hint: bool = False) -> Any:
        hints.append((len(extents), hint))
        return missing(self, extents, hint=hint)

    cache.read_many(data.urls)
    dataset = accelerate(Slow(data.urls, options), cache=cache)
    for _ in range(12):  # until nothing is looked after any more
        dataset.__getitems__(range(10, 20))
    monkeypatch.setattr(Reader, "disk_seconds", property(lambda _: waited))
    monkeypatch.setattr(Reader, "missing", recorded)
    for indices in (range(10), range(10, 20), range(20, 30)):
        assert [index for index, _ in dataset.__getitems__(indices)] == list(indices)
    assert [hint for hint in hints if hint[1]] == [(6, True)]


def test_all_settings_are_kept(any_cache: Cache) -> None:
    generator = torch.Generator()
    plain = td.Ones(
        td.Numbers(),
        batch_size=3,
        shuffle=True,
        num_workers=2,
        collate_fn=td.as_is,
        pin_memory=False,
        drop_last=True,
        timeout=7,
        worker_init_fn=initialize,
        multiprocessing_context="spawn",
        generator=generator,
        prefetch_factor=5,
        persistent_workers=True,
    )
    plain.own = "attribute"  # type: ignore[attr-defined]
    loader = accelerate(plain, cache=any_cache)
    assert isinstance(loader, td.Ones)
    assert isinstance(loader, DataLoader)
    assert isinstance(loader.dataset, td.Numbers)
    for name in vars(plain).keys() - {"dataset"}:
        assert getattr(loader, name) is getattr(plain, name), name
    assert loader.multiprocessing_context is plain.multiprocessing_context
    assert (len(loader), loader.extra) == (6, 5)
    assert type(plain.dataset) is td.Numbers
    with pytest.raises(ValueError, match="after"):
        loader.batch_size = 5
    assert accelerate(loader) is loader


def test_a_users_loader_whose_iterator_is_a_generator(any_cache: Cache) -> None:
    def batches(loader: Any) -> list[Any]:
        td.seed()
        return [[td.plainly(batch) for batch in loader] for _ in range(2)] + [td.state()]

    plain = td.Ones(td.Numbers(), batch_size=3, shuffle=True, collate_fn=td.as_is)
    loader = accelerate(plain, cache=any_cache)
    assert batches(loader) == batches(plain)
    assert [e.batches for e in loader.explain().epochs] == [7, 7]  # type: ignore[attr-defined]


def test_a_loader_made_anew_from_its_settings(any_cache: Cache) -> None:
    """As Lightning does it to put in a DistributedSampler."""
    loader: Any = accelerate(loader_of(td.Numbers(noisy=False)), cache=any_cache)
    same = type(loader)(loader.dataset, batch_size=5, collate_fn=td.as_is)
    assert list(same) == list(loader_of(td.Numbers(noisy=False), batch_size=5))
    assert len(same.explain().epochs) == 1
    plain = type(loader)(td.Numbers(noisy=False), batch_size=5, collate_fn=td.as_is)
    assert list(plain) == list(same)


def test_a_loader_made_anew_from_what_its_class_keeps(any_cache: Cache) -> None:
    """Lightning writes down what a loader was made with, and makes another one of that."""
    data = td.Numbers(noisy=False)
    plain = loader_of(data)
    kept = {
        "__pl_saved_args": (data, 4),
        "__pl_saved_kwargs": OrderedDict(dataset=data, batch_size=4),
        "__pl_saved_arg_names": ("dataset",),
    }
    vars(plain).update(kept)
    loader: Any = accelerate(plain, cache=any_cache)
    assert vars(loader)["__pl_saved_args"][0] is loader.dataset
    assert vars(loader)["__pl_saved_args"][1] == 4
    same = type(loader)(**vars(loader)["__pl_saved_kwargs"], collate_fn=td.as_is)
    assert list(same) == list(plain)
    assert len(same.explain().epochs) == 1
    assert vars(plain)["__pl_saved_args"] is kept["__pl_saved_args"]
    assert vars(plain)["__pl_saved_kwargs"]["dataset"] is data


def test_a_loader_made_anew_over_a_plain_data_set(any_cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    accelerated: Any = accelerate(loader_of(td.Numbers(noisy=False)), cache=any_cache)
    loader = type(accelerated)(td.Numbers(noisy=False), batch_size=4, collate_fn=td.as_is)
    assert loader.state_dict() == {}
    loader.load_state_dict({})
    assert [list(loader) for _ in range(2)] == [list(accelerated)] * 2
    assert "made anew" in str(loader.explain())
    assert [r.levelname for r in caplog.records if "made anew" in r.message] == ["WARNING"]
    with pytest.raises(ConfigError, match="accelerate"):
        loader.load_state_dict(accelerated.state_dict())


class Prepared(DataLoader[Any]):
    """As Hugging Face's ``Accelerator.prepare`` wraps a loader."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.__dict__["base_dataloader"] = loader

    def __getattr__(self, name: str) -> Any:
        if name == "base_dataloader":
            raise AttributeError(name)
        return getattr(self.base_dataloader, name)

    def __iter__(self) -> Any:
        return iter([(batch, "prepared") for batch in self.__dict__["base_dataloader"]])


def test_a_loader_around_a_loader(any_cache: Cache) -> None:
    plain = Prepared(loader_of(td.Numbers(noisy=False)))
    loader: Any = accelerate(plain, cache=any_cache)
    assert type(loader) is Prepared
    assert list(loader) == list(plain)
    assert [e.batches for e in loader.explain().epochs] == [5]
    assert accelerate(loader) is loader
    assert not hasattr(plain, "explain")
    # It may have drawn a batch more than it has given, so the state of the one inside is not its own.
    with pytest.raises(ConfigError, match="skip_first_batches"):
        loader.state_dict()


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


def unpickled(thing: Any) -> Any:
    """As another process has it, with a connection of its own."""
    return pickle.loads(pickle.dumps(thing))


def test_copies_and_pickles_of_a_loader(any_cache: Cache) -> None:
    loader: Any = accelerate(loader_of(td.Numbers(noisy=False)), cache=any_cache)
    for same in (copy.copy(loader), copy.deepcopy(loader), unpickled(loader)):
        assert list(same) == list(loader)
        assert type(same) is type(loader)
    same.dataset._ioaccel_settings.reader.close()


def test_two_iterators_of_one_loader(any_cache: Cache) -> None:
    plain = loader_of(td.Numbers(noisy=False), shuffle=True)
    loader = accelerate(plain, cache=any_cache)

    def both(loader: Any) -> list[Any]:
        td.seed()
        return list(zip(loader, loader, strict=True))

    assert both(loader) == both(plain)


def test_a_loader_that_is_iterating_already(any_cache: Cache) -> None:
    plain = loader_of(td.Numbers(noisy=False), num_workers=1, persistent_workers=True)
    iterator = iter(plain)
    first = next(iterator)
    loader = accelerate(plain, cache=any_cache)
    assert list(loader) == [first, *iterator]
    td.shut(plain, loader)


def test_persistent_workers_leave_with_their_loader(any_cache: Cache) -> None:
    """No cycle of references keeps them."""
    loader: Any = accelerate(loader_of(td.Numbers(), num_workers=1, persistent_workers=True), cache=any_cache)
    list(loader)
    workers = list(loader._iterator._workers)
    assert workers[0].is_alive()
    del loader
    wait_for(lambda: not workers[0].is_alive())


# ---- the data set -------------------------------------------------------------------------------


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


# ---- what is fetched, and when ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_each_object_is_fetched_once(
    cache: Cache, data: DataSet, options: Options, proxy: CountingProxy, method: str
) -> None:
    loader = accelerate(
        loader_of(
            td.Told(data.urls, options),
            num_workers=2 if method == "fork" else 1,  # a new interpreter imports torch for seconds
            shuffle=True,
            multiprocessing_context=method,
        ),
        cache=cache,
    )
    assert epoch(loader) == expected(data)
    assert total(proxy) == COUNT
    assert epoch(loader) == expected(data)
    assert total(proxy) == 0
    explanation = loader.explain()  # type: ignore[attr-defined]
    assert "in .samples: prefetch is exact" in str(explanation)
    assert [(e.batches, e.samples) for e in explanation.epochs] == [(10, 40), (10, 40)]
    assert set(explanation.epochs[0].waits()) == {"queue", "store", "disk", "copy", "code"}
    assert cache.status()["direct_bytes"] == 0


def names(data: DataSet, kind: str) -> list[Any]:
    bare = [url.removeprefix("s3://") for url in data.urls]
    return {
        "urls": list(data.urls),
        "bare": bare,
        "last part": [url.rpartition("/")[2] for url in data.urls],
        "tuples": [(url, number) for number, url in enumerate(data.urls)],
        "labels first": [(number, url) for number, url in enumerate(data.urls)],
        "paths": [Path(name) for name in bare],
    }[kind]


class Named(td.Objects):
    """Tells names in an attribute of choice."""

    def __init__(self, data: DataSet, options: Options, attribute: str, told: Any) -> None:
        super().__init__(data.urls, options)
        setattr(self, attribute, told)


TOLD = [
    ("samples", "tuples"),
    ("imgs", "labels first"),
    ("files", "last part"),
    ("paths", "paths"),
    ("urls", "urls"),
    ("keys", "bare"),
]


def prefetched_by_the_first_sample(loader: Any, cache: Cache, data: DataSet) -> None:
    """One batch is taken: what the rest will read comes by itself."""
    iterator = iter(loader)
    next(iterator)
    wait_for(lambda: all(n > 0 for n in cache.resident(data.urls)), 20)
    assert {i: s for batch in iterator for i, s in batch}


@pytest.mark.parametrize(("attribute", "kind"), TOLD)
def test_what_a_data_set_tells(
    cache: Cache, data: DataSet, options: Options, proxy: CountingProxy, attribute: str, kind: str
) -> None:
    dataset = Named(data, options, attribute, names(data, kind))
    loader = accelerate(loader_of(dataset, shuffle=True), cache=cache)
    prefetched_by_the_first_sample(loader, cache, data)
    assert total(proxy) == COUNT
    assert f"in .{attribute}: prefetch is exact" in str(loader.explain())  # type: ignore[attr-defined]


@pytest.mark.parametrize("form", ["length", "end"])
def test_a_data_set_tells_which_parts_of_files_it_reads(
    s3: SeaweedS3, cache: Cache, options: Options, bucket: str, form: str
) -> None:
    large = DataSet.fill(s3, bucket, [9_000_000, 9_500_000])  # three blocks each
    size = 300_007
    told = [(url, 0, at, size if form == "length" else at + size)
            for url in large.urls for at in range(0, 8_500_000, size)]  # fmt: skip
    loader = accelerate(loader_of(td.Pieces(told, options, form), shuffle=True, num_workers=2), cache=cache)
    iterator = iter(loader)
    batches = [next(iterator)]
    wait_for(lambda: cache.resident(large.urls) == [9_000_000, 9_500_000], 20)
    batches += iterator
    found = {index: sample for batch in batches for index, sample in batch}
    assert found == {i: large.data(u)[at : at + size] for i, (u, _, at, _) in enumerate(told)}
    assert "in .samples: prefetch is exact" in str(loader.explain())  # type: ignore[attr-defined]


@pytest.mark.parametrize("inside", ["subset", "concatenation"])
def test_what_parts_of_data_sets_tell(cache: Cache, data: DataSet, options: Options, inside: str) -> None:
    half = COUNT // 2
    dataset: Any = {
        "subset": lambda: Subset(td.Told(data.urls, options), torch.randperm(COUNT).tolist()),
        "concatenation": lambda: td.Told(data.urls[:half], options) + td.Told(data.urls[half:], options),
    }[inside]()
    loader = accelerate(loader_of(dataset), cache=cache)
    prefetched_by_the_first_sample(loader, cache, data)
    assert "in .samples: prefetch is exact" in str(loader.explain())  # type: ignore[attr-defined]


@pytest.mark.parametrize("lie", ["others", "shifted", "numbers", "wrong length", "raises"])
def test_a_data_set_that_lies(
    cache: Cache, data: DataSet, options: Options, proxy: CountingProxy, lie: str
) -> None:
    """Its first epoch is right; the second is known from what was read."""
    told: Any = {
        "others": [f"s3://other/{n}" for n in range(COUNT)],
        "shifted": [*data.urls[:1], *data.urls[2:], data.urls[1]],
        "numbers": list(range(COUNT)),
        "wrong length": data.urls[1:],
        "raises": None,
    }[lie]
    dataset = Named(data, options, "urls", told) if told else Raising(data.urls, options)
    loader = accelerate(loader_of(dataset, num_workers=1), cache=cache)
    for _ in range(2):
        assert epoch(loader) == expected(data)
    assert total(proxy) == COUNT
    assert "was recorded in an earlier epoch: prefetch is exact" in str(loader.explain())  # type: ignore[attr-defined]


class Raising(td.Objects):
    """A property of a name that is looked for raises."""

    @property
    def files(self) -> Any:
        raise RuntimeError("a property that is not ready")


class Masks(td.Told):
    """Tells one of the two objects that it reads."""

    def __getitem__(self, index: int) -> Any:
        _, mask = super().__getitem__((index * 7 + 3) % len(self))
        return index, (super().__getitem__(index)[1], mask)


def forget(cache: Cache, data: DataSet) -> None:
    cache.evict(data.urls[0].rpartition("/")[0] + "/")
    assert cache.resident(data.urls) == [0] * len(data.urls)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cls", [td.Objects, Masks])
def test_what_was_recorded_is_prefetched_in_a_later_epoch_and_in_a_later_run(
    cache: Cache, data: DataSet, options: Options, proxy: CountingProxy, workers: int, cls: Any
) -> None:
    kwargs: Any = {"num_workers": workers, "persistent_workers": workers > 0}
    loader: Any = accelerate(loader_of(cls(data.urls, options), **kwargs), cache=cache)
    before = epoch(loader)
    forget(cache, data)
    prefetched_by_the_first_sample(loader, cache, data)
    assert "recorded in an earlier epoch" in str(loader.explain())
    td.shut(loader)
    forget(cache, data)
    again: Any = accelerate(loader_of(cls(data.urls, options), **kwargs), cache=cache)
    assert "recorded in an earlier epoch" in str(again.explain())
    assert epoch(again) == before
    traces = list(Path(cache.directories[0], "traces").iterdir())
    assert len(traces) == 1
    written = traces[0].stat().st_mtime_ns
    assert epoch(again) == before
    assert traces[0].stat().st_mtime_ns == written  # nothing new was read, so nothing is written
    td.shut(again)


LATER = """
import sys
from support import torch_data as td
from torch.utils.data import DataLoader
import ioaccel, json
from ioaccel.torch import accelerate
if __name__ == "__main__":
    urls, options = json.loads(sys.argv[1])
    with ioaccel.connect(sys.argv[2], "50MB", options) as cache:
        loader = accelerate(DataLoader(td.Objects(urls, options), 4, collate_fn=td.as_is), cache=cache)
        print(loader.explain())
        iterator = iter(loader)
        next(iterator)
        import time
        deadline = time.monotonic() + 20
        while not all(n > 0 for n in cache.resident(urls)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
"""


def test_a_later_run_is_another_process(cache: Cache, data: DataSet, options: Options) -> None:
    import json

    loader = accelerate(loader_of(td.Objects(data.urls, options)), cache=cache)
    assert epoch(loader) == expected(data)
    forget(cache, data)
    told = run_python(LATER, json.dumps([data.urls, options]), cache.directories[0], seconds=50)
    assert "recorded in an earlier epoch: prefetch is exact" in told


@pytest.mark.parametrize("form", ["function", "list", "extents"])
def test_extents(cache: Cache, data: DataSet, options: Options, proxy: CountingProxy, form: str) -> None:
    given: Any = {
        "function": lambda i: data.urls[i],
        "list": list(data.urls),
        "extents": [[(url, 0, None)] for url in data.urls],
    }[form]
    loader = accelerate(loader_of(td.Objects(data.urls, options)), cache=cache, extents=given)
    prefetched_by_the_first_sample(loader, cache, data)
    assert total(proxy) == COUNT
    assert "is given" in str(loader.explain())  # type: ignore[attr-defined]


def test_extents_that_are_wrong_cost_time_only(cache: Cache, data: DataSet, options: Options) -> None:
    for given in (
        lambda i: 1 / 0,
        [],
        lambda i: "s3://torch-accelerate/none",
        lambda i: 5,
        lambda i: "no url",
    ):
        loader = accelerate(
            loader_of(td.Objects(data.urls, options)),
            cache=cache,
            extents=given,  # type: ignore[arg-type]
        )
        assert epoch(loader) == expected(data)
    with pytest.raises(ConfigError, match="extents"):
        accelerate(loader_of(td.Objects(data.urls, options)), cache=cache, extents=5)  # type: ignore[arg-type]


def test_a_cache_that_is_too_small(s3: SeaweedS3, data: DataSet, options: Options, tmp_path: Path) -> None:
    with ioaccel.connect(tmp_path, "5MB", options) as small:
        loader = accelerate(loader_of(td.Told(data.urls * 3, options), num_workers=2), cache=small)
        for _ in range(2):
            assert epoch(loader) == dict(enumerate(map(data.data, data.urls * 3)))


@pytest.mark.parametrize("workers", [0, 1])
def test_without_batches(
    cache: Cache, data: DataSet, options: Options, proxy: CountingProxy, workers: int
) -> None:
    loader = accelerate(
        loader_of(td.Objects(data.urls, options), batch_size=None, num_workers=workers), cache=cache
    )
    assert dict(loader) == expected(data)
    forget(cache, data)
    iterator = iter(loader)
    next(iterator)
    wait_for(lambda: all(n > 0 for n in cache.resident(data.urls)), 20)
    del iterator


def test_it_explains_each_epoch(
    cache: Cache, data: DataSet, options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    loader = accelerate(loader_of(td.Told(data.urls, options), num_workers=1), cache=cache, explain=True)
    for number in (1, 2):
        epoch(loader)
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("ioaccel: the data set tells")
        assert lines[1].startswith(f"epoch {number}: 10 batches, waited ")
        for cause in ("queue", "store", "disk", "copy", "code"):
            assert f"{cause} " in lines[1]


def test_it_says_what_is_not_accelerated(cache: Cache, data: DataSet, options: Options) -> None:
    dataset = td.Objects(data.urls, options | {"version_aware": True})
    loader = accelerate(loader_of(dataset, num_workers=1), cache=cache)
    assert epoch(loader) == expected(data)
    assert "not accelerated: s3://" in str(loader.explain())  # type: ignore[attr-defined]
    odd = accelerate(loader_of(td.Numbers(), sampler=td.Uncopied(10)), cache=cache)
    list(odd)
    assert "cannot be looked ahead of" in str(odd.explain())  # type: ignore[attr-defined]


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


def test_figures_of_persistent_workers_are_of_each_epoch(
    cache: Cache, data: DataSet, options: Options
) -> None:
    loader: Any = accelerate(
        loader_of(td.Told(data.urls, options), num_workers=1, persistent_workers=True), cache=cache
    )
    for _ in range(3):
        epoch(loader)
    assert [e.samples for e in loader.explain().epochs] == [40, 40, 40]
    td.shut(loader)


def test_an_epoch_that_is_left_is_recorded_as_far_as_it_went(
    cache: Cache, data: DataSet, options: Options
) -> None:
    loader: Any = accelerate(loader_of(td.Objects(data.urls, options)), cache=cache)
    iterator = iter(loader)
    for _ in range(5):
        next(iterator)
    forget(cache, data)
    iterator = iter(loader)
    next(iterator)
    wait_for(lambda: all(n > 0 for n in cache.resident(data.urls[4:20])), 20)


# ---- what goes wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [None, "x", b"bytes", [1, 2], (1,), {0: 1}, 5, td.Numbers, iter([1])])
def test_what_is_no_loader(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="DataLoader or Dataset"):
        accelerate(wrong)


def test_wrong_arguments(any_cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="list of directories"):
        accelerate(td.Numbers(), cache=any_cache, paths="/tmp")
    with pytest.raises(ConfigError, match="not both"):
        accelerate(td.Numbers(), cache=any_cache, cache_dir=tmp_path)
    with pytest.raises(TypeError):
        accelerate(td.Numbers(), no_such_option=1)


def failure(loader: Any) -> Any:
    batches = []
    with pytest.raises(Exception) as raised:  # noqa: PT011  # compared
        batches.extend(loader)
    lines = str(raised.value).splitlines()
    told = type(raised.value), lines[0], lines[-1], batches
    # Or the workers live on in its traceback, and torch waits 5 s for each of them when others were forked.
    raised.value.__traceback__ = None
    del raised
    gc.collect()
    return told


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_set_that_raises(any_cache: Cache, workers: int) -> None:
    plain = loader_of(td.Fails("raise"), num_workers=workers)
    assert failure(accelerate(plain, cache=any_cache)) == failure(plain)


def test_a_worker_that_dies(any_cache: Cache) -> None:
    plain = loader_of(td.Fails("exit"), num_workers=2)
    with pytest.raises(RuntimeError, match=r"DataLoader worker .* exited unexpectedly"):
        list(accelerate(plain, cache=any_cache))


def test_a_sample_that_hangs(any_cache: Cache) -> None:
    plain = loader_of(td.Fails("hang"), num_workers=1, timeout=1)
    with pytest.raises(RuntimeError, match="timed out after 1"):
        list(accelerate(plain, cache=any_cache))


def test_a_data_set_that_gives_different_things_for_one_index(
    cache: Cache, data: DataSet, options: Options
) -> None:
    class Fickle(td.Told):
        def __getitem__(self, index: int) -> Any:
            return super().__getitem__(int(torch.randint(len(self), (1,))))

    plain = loader_of(Fickle(data.urls, options))
    loader = accelerate(plain, cache=cache)
    for seed in range(3):
        td.seed(seed)
        got = list(loader)
        assert all(sample == data.data(data.urls[index]) for batch in got for index, sample in batch)
        assert len(got) == 10


@pytest.mark.crash
@pytest.mark.timeout(120)
@pytest.mark.parametrize("workers", [0, 2])
def test_the_engine_is_killed_in_the_middle_of_an_epoch(
    cache: Cache, data: DataSet, options: Options, workers: int
) -> None:
    loader = accelerate(
        loader_of(td.Told(data.urls, options), num_workers=workers, shuffle=True), cache=cache
    )
    for _ in range(2):
        got = {}
        for number, batch in enumerate(loader):
            got |= dict(batch)
            if number == 3:
                kill_engine(cache)
        assert got == expected(data)


def in_a_worker(directory: Path, urls: list[str], options: Options) -> None:
    with ioaccel.connect(directory, "50MB", options) as cache:
        loader = accelerate(DataLoader(td.Told(urls, options), 4, collate_fn=td.as_is), cache=cache)
        assert len(epoch(loader)) == len(urls)


def test_called_in_a_child(data: DataSet, options: Options, tmp_path: Path) -> None:
    child = multiprocessing.get_context("fork").Process(
        target=in_a_worker, args=(tmp_path, data.urls, options)
    )
    child.start()
    child.join(40)
    assert child.exitcode == 0


def test_a_trace_that_is_damaged(cache: Cache, data: DataSet, options: Options) -> None:
    for damage in (b"", b"ARROW1\0\0garbage", None):
        loader = accelerate(loader_of(td.Objects(data.urls, options)), cache=cache)
        assert epoch(loader) == expected(data)
        assert epoch(loader) == expected(data)
        if damage is not None:
            (trace,) = Path(cache.directories[0], "traces").iterdir()
            trace.unlink()  # not in place: it is mapped
            trace.write_bytes(damage)


# ---- training -----------------------------------------------------------------------------------


def trained(loader: Any) -> list[torch.Tensor]:
    td.seed(4)
    torch.set_num_threads(1)  # two that wait for each other take a hundred times as long on a busy machine
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(16, 2)
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(3):
        for batch in loader:
            rows = torch.stack(
                [torch.frombuffer(bytearray((s * 64)[:64]), dtype=torch.uint8) for _, s in batch]
            )
            labels = torch.tensor([i % 2 for i, _ in batch])
            loss = torch.nn.functional.cross_entropy(model(rows.float() / 255), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return list(model.state_dict().values())


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_model_trained_both_ways_is_the_same(cache: Cache, data: DataSet, options: Options) -> None:
    plain = loader_of(td.Told(data.urls, options), num_workers=2, shuffle=True)
    accelerated = trained(accelerate(plain, cache=cache))
    for one, other in zip(trained(plain), accelerated, strict=True):
        assert torch.equal(one, other)


# ---- what a review and a newcomer found ---------------------------------------------------------


def test_a_sampler_that_changes_its_data_set_is_not_copied(cache: Cache) -> None:
    plain, ours = td.Shuffled(10), td.Shuffled(10)
    torch.manual_seed(3)
    wanted = list(loader_of(plain, sampler=td.ShufflesItsData(plain)))
    torch.manual_seed(3)
    loader: Any = accelerate(loader_of(ours, sampler=td.ShufflesItsData(ours)), cache=cache)
    assert list(loader) == wanted
    assert ours.order == plain.order
    assert "cannot be looked ahead of" in str(loader.explain())


@pytest.mark.parametrize("kind", [set, deque, dict.fromkeys])
def test_batches_that_cannot_be_sliced(cache: Cache, data: DataSet, options: Options, kind: Any) -> None:
    batches = [kind([0, 1, 2]), kind([3, 4])]
    loader = accelerate(
        DataLoader(td.Told(data.urls, options), batch_sampler=batches, collate_fn=td.as_is), cache=cache
    )
    plain = DataLoader(td.Told(data.urls, options), batch_sampler=batches, collate_fn=td.as_is)
    assert list(loader) == list(plain)


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


def test_loaders_with_the_same_settings_share_a_connection(
    tmp_path: Path, data: DataSet, options: Options
) -> None:
    caches = []
    for _ in range(3):
        loader: Any = accelerate(
            loader_of(td.Told(data.urls, options)), cache_dir=tmp_path, cache_size="10MB"
        )
        assert epoch(loader) == expected(data)
        caches.append(loader._ioaccel_job.settings.cache)
    assert caches[0] is caches[1] is caches[2]
    caches[0].close()


def test_workers_of_a_copy_count_for_it(cache: Cache, data: DataSet, options: Options) -> None:
    """What workers count is in shared memory, and a pickled loader would go on with memory of its own."""
    loader: Any = accelerate(loader_of(td.Told(data.urls, options), num_workers=1), cache=cache)
    for each in (loader, pickle.loads(pickle.dumps(loader))):
        assert epoch(each) == expected(data)
        assert each.explain().epochs[-1].samples == len(data.urls)
        assert each.explain().epochs[-1].served == len(data.urls)
        each._ioaccel_job.settings.reader.close()


@pytest.mark.parametrize("ours", [False, True])
def test_waits_for_the_store_are_told(
    tmp_path: Path, data: DataSet, options: Options, proxy: CountingProxy, ours: bool
) -> None:
    """In workers, too; and of our own data sets, whose reads no scope serves."""
    last = data.urls[-1].rpartition("/")[2]
    proxy.hook = lambda request: Fault(delay=2.0) if last in request.path else None
    with ioaccel.connect(tmp_path, "50MB", options) as cache:
        dataset: Any = td.Told(data.urls, options)
        if ours:
            dataset = ioaccel.torch.ObjectDataset(f"s3://{data.bucket}/data/", cache=cache)
        loader: Any = accelerate(DataLoader(dataset, 4, num_workers=1, collate_fn=list), cache=cache)
        assert sum(len(batch) for batch in loader) == COUNT
        proxy.hook = None
        assert loader.explain().epochs[0].store > 0.5


def test_that_nothing_is_served_is_said(tmp_path: Path, cache: Cache) -> None:
    (tmp_path / "file").write_bytes(b"bytes")
    loader: Any = accelerate(loader_of(td.Files([tmp_path / "file"], td.read_bytes)), cache=cache)
    list(loader)
    assert "no read of a sample was served" in str(loader.explain())
    with pytest.raises(ConfigError, match="is no directory"):
        accelerate(td.Numbers(), cache=cache, paths=[tmp_path / "nowhere"])


def test_random_numbers_of_other_threads_are_not_drawn_twice(cache: Cache) -> None:
    drawn: list[float] = []
    done = threading.Event()

    def draw() -> None:
        while not done.is_set():
            drawn.append(random.random())
            if len(drawn) % 50 == 0:
                time.sleep(0.0001)  # or it would have the interpreter for 5 ms, and draw millions

    loader = accelerate(DataLoader(td.Numbers(3000), batch_size=2, shuffle=True), cache=cache)
    batches = iter(loader)
    next(batches)  # torch's samplers draw from the global generators once
    thread = threading.Thread(target=draw)
    thread.start()
    for _ in batches:
        pass
    done.set()
    thread.join(30)
    assert len(set(drawn)) == len(drawn)


def test_forks_of_several_threads(cache: Cache) -> None:
    loaders = [accelerate(loader_of(td.Numbers(20)), cache=cache) for _ in range(2)]
    for loader in loaders:
        list(loader)

    def fork() -> None:
        for _ in range(30):
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)

    threads = [threading.Thread(target=fork, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "forks wait for each other"
    assert all(list(loader) for loader in loaders)
