"""Loader: the batches of a DataLoader in its order, read by threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import DataSet
from torch.utils.data import DataLoader, IterableDataset, WeightedRandomSampler

import ioaccel
from ioaccel import Cache
from ioaccel.errors import ConfigError
from ioaccel.testing.seaweed import SeaweedS3
from ioaccel.torch import Loader, ObjectDataset

COUNT = 100


@pytest.fixture(scope="module")
def data(s3: SeaweedS3) -> DataSet:
    s3.create_bucket("torch-loader")
    return DataSet.fill(s3, "torch-loader", [37 * n for n in range(COUNT)])


@pytest.fixture
def cache(s3: SeaweedS3, tmp_path: Path) -> Iterator[Cache]:
    with ioaccel.connect(tmp_path / "cache", "100MB", s3.storage_options) as cache:
        yield cache


@pytest.fixture
def objects(cache: Cache, data: DataSet) -> ObjectDataset:
    return ObjectDataset(f"s3://{data.bucket}/data/", cache=cache)


def as_tensor(sample: bytes) -> torch.Tensor:
    return torch.tensor([len(sample), sum(sample[:100])])


def contents(batches: Any) -> list[list[bytes]]:
    return [[bytes(s.numpy()) if isinstance(s, torch.Tensor) else s for s in batch] for batch in batches]


@pytest.mark.parametrize("workers", [0, 1, 3, None])
def test_the_batches_of_a_dataloader(objects: ObjectDataset, data: DataSet, workers: int | None) -> None:
    plain = DataLoader(objects, batch_size=7, shuffle=True, collate_fn=list)
    loader = Loader(objects, batch_size=7, shuffle=True, num_workers=workers)
    assert len(loader) == len(plain) == 15
    for seed in range(3):
        torch.manual_seed(seed)
        expected = contents(plain)
        left = torch.rand(1)
        torch.manual_seed(seed)
        assert contents(loader) == expected
        assert torch.equal(torch.rand(1), left), "other random numbers were drawn"
    assert sorted(s for batch in expected for s in batch) == sorted(data.data(u) for u in data.urls)


def test_every_argument_of_a_dataloader(objects: ObjectDataset) -> None:
    objects.transform = as_tensor
    settings: list[dict[str, Any]] = [
        {"batch_size": 8, "drop_last": True},
        {"batch_size": None},
        {"batch_sampler": [[3, 1], [7], [99, 0, 5]]},
        {"batch_size": 5, "sampler": WeightedRandomSampler([1.0] * COUNT, 40)},
        {"batch_size": 5, "shuffle": True, "generator": torch.Generator()},
        {"batch_size": 4, "collate_fn": len},
    ]
    for arguments in settings:
        torch.manual_seed(5)
        expected = list(DataLoader(objects, **arguments))
        torch.manual_seed(5)
        if "generator" in arguments:
            arguments["generator"].manual_seed(torch.default_generator.initial_seed())
            expected = list(DataLoader(objects, **arguments))
            arguments["generator"].manual_seed(torch.default_generator.initial_seed())
        got = list(Loader(objects, **arguments, num_workers=2))
        assert len(got) == len(expected)
        assert all(
            torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(got, expected, strict=True)
        )


def test_labels(objects: ObjectDataset) -> None:
    objects.target = lambda key: int(key.rpartition("/")[2])
    for tensors, labels in Loader(objects, batch_size=16, shuffle=True):
        assert [len(t) for t in tensors] == [37 * n for n in labels.tolist()]


def test_what_batches_of_tensors_waited_for_is_told(objects: ObjectDataset) -> None:
    loader = Loader(objects, batch_size=10, num_workers=2)
    for _ in range(2):
        assert len(list(loader)) == COUNT // 10
    epochs = loader.explain().epochs
    assert [(e.batches, e.samples, e.served) for e in epochs] == [(COUNT // 10, COUNT, COUNT)] * 2
    assert all(e.reading > 0 for e in epochs)
    assert sum(e.store for e in epochs) == pytest.approx(objects.cache._reader.waited_seconds)


def test_memory_is_used_again_and_never_too_early(objects: ObjectDataset, data: DataSet) -> None:
    kept, addresses = [], set()
    for batch in Loader(objects, batch_size=10):
        kept.append(batch[3])  # one view of a batch keeps its memory
        addresses.add(batch[0].data_ptr())
    assert len(addresses) == len(kept) == 10
    assert [bytes(t.numpy()) for t in kept] == [data.data(data.urls[10 * i + 3]) for i in range(10)]
    del kept, batch
    # Without threads one batch is made while one is held; with them it is up to the scheduler how many.
    loader = Loader(objects, batch_size=10, num_workers=0)
    again = {batch.buffer.data_ptr() for _ in range(3) for batch in loader}
    assert len(again) <= 3


def test_any_data_set_in_threads(s3: SeaweedS3, cache: Cache, data: DataSet) -> None:
    import fsspec

    class Files:
        urls = data.urls

        def __len__(self) -> int:
            return len(self.urls)

        def __getitem__(self, index: int) -> bytes:
            with fsspec.open(self.urls[index], **s3.storage_options) as file:
                read: bytes = file.read()
                return read

    loader = Loader(Files(), batch_size=10, num_workers=2, cache=cache)
    for _ in range(2):
        assert [s for b in loader for s in b] == [data.data(u) for u in data.urls]
    # Each second that a thread has waited counts once, though all of them read with the same reader.
    job = loader._plain._ioaccel_job  # type: ignore[attr-defined]
    waited = sum(reader.waited_seconds for reader in {job.settings.reader, *job.stores.values()})
    assert waited > 0
    assert sum(e.store for e in loader.explain().epochs) == pytest.approx(waited)
    status = cache.status()
    assert status["hits"] >= COUNT
    assert status["store_bytes"] <= 1.01 * data.nbytes, "objects were fetched twice"


def test_it_goes_on_where_it_was(objects: ObjectDataset) -> None:
    torch.manual_seed(3)
    loader = Loader(objects, batch_size=7, shuffle=True)
    expected = contents(loader)
    torch.manual_seed(3)
    batches = iter(loader)
    head = [next(batches) for _ in range(4)]
    state = loader.state_dict()
    del batches
    torch.manual_seed(99)
    other = Loader(objects, batch_size=7, shuffle=True, num_workers=1)
    other.load_state_dict(state)
    assert contents(head) + contents(other) == expected


class TestErrors:
    def test_a_sample_that_raises(self, objects: ObjectDataset) -> None:
        def fail(sample: bytes) -> bytes:
            if len(sample) == 37 * 50:
                raise LookupError("sample 50")
            return sample

        objects.transform = fail
        batches = iter(Loader(objects, batch_size=10, num_workers=2))
        for _ in range(5):
            next(batches)
        with pytest.raises(LookupError, match="sample 50"):
            next(batches)

    def test_a_transform_that_hangs(self, objects: ObjectDataset) -> None:
        end = threading.Event()
        objects.transform = lambda _: end.wait(30)
        loader = Loader(objects, batch_size=10, num_workers=1, timeout=0.3)
        begun = time.monotonic()
        with pytest.raises(RuntimeError, match="took more than"):
            next(iter(loader))
        assert time.monotonic() - begun < 10
        end.set()

    def test_an_error_does_not_end_the_epoch(self, objects: ObjectDataset, data: DataSet) -> None:
        def fail(sample: bytes) -> bytes:
            if len(sample) == 37 * 50:
                raise LookupError("sample 50")
            return sample

        objects.transform = fail
        for workers in (0, 2):
            batches, found = iter(Loader(objects, batch_size=10, num_workers=workers)), []
            for _ in range(10):
                try:
                    found += next(batches)
                except LookupError:
                    found += [None] * 10
            assert found == [None if 50 <= n < 60 else data.data(u) for n, u in enumerate(data.urls)]
            assert next(batches, "over") == "over"

    def test_state_counts_what_was_handed_out(self, objects: ObjectDataset) -> None:
        loader = Loader(objects, batch_size=10, device="cpu", num_workers=2, persistent_workers=True)
        batches = iter(loader)
        next(batches), next(batches)
        assert loader.state_dict()["batches"] == 2

    def test_an_epoch_that_is_abandoned_leaves_no_threads(self, objects: ObjectDataset) -> None:
        before = set(threading.enumerate())
        for _ in range(3):
            next(iter(Loader(objects, batch_size=5, num_workers=3)))
        deadline = time.monotonic() + 10
        while any("ioaccel-loader" in t.name for t in set(threading.enumerate()) - before):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def test_what_makes_no_sense(self, objects: ObjectDataset) -> None:
        class Stream(IterableDataset[int]):
            def __iter__(self) -> Iterator[int]:
                return iter(range(3))

        with pytest.raises(ConfigError, match="IterableDataset"):
            Loader(Stream())
        with pytest.raises(ConfigError, match="num_workers"):
            Loader(objects, num_workers=-1)
        with pytest.raises(ConfigError, match="prefetch_factor"):
            Loader(objects, prefetch_factor=0)
        with pytest.raises(ValueError, match="mutually exclusive"):
            Loader(objects, batch_size=2, batch_sampler=[[1]])
