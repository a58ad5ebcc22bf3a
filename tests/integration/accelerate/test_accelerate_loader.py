"""``accelerate``: the loader stays what it was, whatever is done with it."""

from __future__ import annotations

import copy
import os
import random
import threading
import time
from collections import OrderedDict, deque
from pathlib import Path
from typing import Any

import pytest
import torch
from support import DataSet, wait_for
from support import torch_data as td
from support.accelerate import Options, epoch, expected, loader_of, unpickled
from torch.utils.data import DataLoader

from ioaccel import Cache, ConfigError
from ioaccel.torch import accelerate


def initialize(number: int) -> None:
    """A worker_init_fn."""


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
