"""SIGKILL of the engine, in the middle of whatever it does: the job goes on, and nothing is lost."""

from __future__ import annotations

import os
import pickle
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import DataSet, gone, kill_engine, python, wait_for

import ioaccel
from ioaccel import Cache
from ioaccel.testing.seaweed import SeaweedS3

pytestmark = pytest.mark.crash

KIB = 1 << 10
BUCKET = "engine-killed"


@pytest.fixture(scope="module")
def data(s3: SeaweedS3) -> DataSet:
    s3.create_bucket(BUCKET)
    sizes = [(n * 7919) % (200 * KIB) for n in range(300)] + [5 << 20, 9 << 20]
    return DataSet.fill(s3, BUCKET, sizes)


@pytest.fixture
def cache(s3: SeaweedS3, tmp_path: Path) -> Iterator[Cache]:
    with ioaccel.connect(tmp_path, "200MB", s3.storage_options) as cache:
        yield cache


def read_all(cache: Cache, data: DataSet, seed: int, batch: int = 16) -> None:
    urls = data.shuffled(seed)
    for start in range(0, len(urls), batch):
        for url, view in zip(
            urls[start : start + batch], cache.read_many(urls[start : start + batch]), strict=True
        ):
            assert bytes(view) == data.data(url), url


def test_every_published_block_is_recovered(cache: Cache, data: DataSet) -> None:
    read_all(cache, data, 0)
    before = kill_engine(cache)
    after = cache.status()
    assert after["engine_pid"] != before["engine_pid"]
    assert after["recovered_blocks"] == after["blocks"] == before["blocks"]
    assert after["cached_bytes"] == before["cached_bytes"] == data.nbytes
    assert sum(cache.resident(data.urls)) == data.nbytes
    read_all(cache, data, 1)
    assert cache.status()["store_bytes"] == 0
    assert cache.status()["corrupt_blocks"] == 0
    assert cache.verify().blocks == before["blocks"]


@pytest.mark.parametrize("when", [0.05, 0.15, 0.3])
def test_a_warm_up_is_cut_off(cache: Cache, data: DataSet, when: float) -> None:
    cache.prefetch(data.urls)
    time.sleep(when)
    resident = dict(zip(data.urls, cache.resident(data.urls), strict=True))
    before = kill_engine(cache)
    after = cache.status()
    assert after["recovered_blocks"] >= before["blocks"]
    kept = cache.resident(data.urls)
    assert all(now >= then for now, then in zip(kept, resident.values(), strict=True))
    read_all(cache, data, 1)
    assert cache.status()["store_bytes"] <= data.nbytes - sum(kept)
    assert cache.status()["corrupt_blocks"] == 0


@pytest.mark.slow
def test_a_reader_whose_engine_is_killed_again_and_again(cache: Cache, data: DataSet) -> None:
    draw, stop = random.Random(7), threading.Event()
    killed: list[int] = []

    def kill_now_and_then() -> None:
        while not stop.wait(draw.uniform(0.02, 0.6)):
            pid = engine_pid(cache)
            if pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    try:
        seed = 0
        while len(killed) < 5:
            read_all(cache, data, seed, batch=[1, 16, 64][seed % 3])
            seed += 1
    finally:
        stop.set()
        killer.join()
    read_all(cache, data, seed)
    assert cache.status()["corrupt_blocks"] == 0
    assert cache.verify().corrupt == []


def engine_pid(cache: Cache) -> int:
    return int((Path(cache.directories[0]) / "engine.lock").read_text().split('"pid": ')[1].split(",")[0])


READER = """
import itertools, pathlib, pickle, sys
job, stop, epochs = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), itertools.count()
cache, data = pickle.loads(job.read_bytes())
with cache:
    while not stop.exists():
        for url in data.shuffled(next(epochs)):
            assert cache.read(url) == data.data(url), url
    print(cache.status()["engine_pid"], next(epochs))
"""


@pytest.mark.slow
def test_two_readers_go_on_with_one_new_engine(cache: Cache, data: DataSet, tmp_path: Path) -> None:
    job, stop = tmp_path / "job", tmp_path / "stop"
    job.write_bytes(pickle.dumps((cache, data)))
    with python(READER, job, stop) as one, python(READER, job, stop) as other:
        wait_for(lambda: cache.status()["clients"] == 3)
        for wait in (0.3, 0.6, 0.5):
            time.sleep(wait)
            kill_engine(cache)
            wait_for(lambda: cache.status()["clients"] == 3)
        stop.touch()
        outputs = [reader.communicate(timeout=30)[0].split() for reader in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0)
    assert {int(pid) for pid, _ in outputs} == {cache.status()["engine_pid"]}
    assert all(int(epochs) > 0 for _, epochs in outputs)
    wait_for(lambda: cache.status()["clients"] == 1)
    assert cache.status()["corrupt_blocks"] == 0


def test_what_was_evicted_does_not_come_back(s3: SeaweedS3, tmp_path: Path) -> None:
    """It would come back beside what took its room. Found by tests/property/test_cache_model.py."""
    names = ["evicted-x", "evicted-y", "evicted-z", "evicted-w"]
    for name in names:
        s3.create_bucket(name)
    x, y, z = (DataSet.fill(s3, name, [1_000_000]) for name in names[:3])
    w = DataSet.fill(s3, names[3], [2_000_000])
    for each in (x, y, z, x, w):  # the last one takes the room of the two that were read least recently
        with ioaccel.connect(tmp_path, 3_200_000, s3.storage_options) as cache:
            cache.read_many(each.urls)
            before = cache.resident([*x.urls, *y.urls, *z.urls, *w.urls])
            if each is w:
                kill_engine(cache)
                assert before == [1_000_000, 0, 0, 2_000_000]
                assert cache.resident([*x.urls, *y.urls, *z.urls, *w.urls]) == before
        time.sleep(0.01)  # so that it tells which was read last


def test_the_kill_of_an_idle_engine_is_not_even_noticed(cache: Cache, data: DataSet) -> None:
    for url in data.urls[1:5]:
        assert cache.read(url) == data.data(url)
        kill_engine(cache)
        assert cache.read(url) == data.data(url)
        assert cache.read(url, 3, 20) == data.data(url)[3:23]


def test_asynchronous_reads_go_on(cache: Cache, data: DataSet) -> None:
    import asyncio

    async def read_and_kill() -> None:
        tasks = [asyncio.create_task(cache.aread(url)) for url in data.urls]
        await asyncio.sleep(0.1)
        await asyncio.to_thread(kill_engine, cache)
        assert await asyncio.gather(*tasks) == [data.data(url) for url in data.urls]

    asyncio.run(read_and_kill())


def test_a_file_that_is_open_goes_on(cache: Cache, data: DataSet) -> None:
    url = data.urls[-1]
    with cache.open(url) as file:
        first = file.read(1 << 20)
        kill_engine(cache)
        assert first + file.read() == data.data(url)


def test_an_engine_that_is_killed_leaves_when_its_clients_do(
    s3: SeaweedS3, tmp_path: Path, data: DataSet
) -> None:
    with ioaccel.connect(tmp_path, "200MB", s3.storage_options) as cache:
        cache.read(data.urls[0])
        kill_engine(cache)
        pid = cache.status()["engine_pid"]
    wait_for(lambda: gone(pid))
