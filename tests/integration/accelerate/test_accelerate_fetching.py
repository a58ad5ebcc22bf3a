"""``accelerate``: each byte is fetched once, and before it is asked for."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from support import DataSet, run_python, wait_for
from support import torch_data as td
from support.accelerate import COUNT, Options, epoch, expected, loader_of, total
from torch.utils.data import DataLoader, Subset

import ioaccel
from ioaccel import Cache, ConfigError
from ioaccel.client.reader import Reader
from ioaccel.testing.countproxy import CountingProxy, Fault
from ioaccel.testing.seaweed import SeaweedS3
from ioaccel.torch import accelerate


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
