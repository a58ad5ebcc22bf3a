"""``accelerate``: what goes wrong."""

from __future__ import annotations

import gc
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from support import DataSet, kill_engine
from support import torch_data as td
from support.accelerate import Options, epoch, expected, loader_of
from torch.utils.data import DataLoader

import ioaccel
from ioaccel import Cache, ConfigError
from ioaccel.torch import accelerate


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


def test_that_nothing_is_served_is_said(tmp_path: Path, cache: Cache) -> None:
    (tmp_path / "file").write_bytes(b"bytes")
    loader: Any = accelerate(loader_of(td.Files([tmp_path / "file"], td.read_bytes)), cache=cache)
    list(loader)
    assert "no read of a sample was served" in str(loader.explain())
    with pytest.raises(ConfigError, match="is no directory"):
        accelerate(td.Numbers(), cache=cache, paths=[tmp_path / "nowhere"])
