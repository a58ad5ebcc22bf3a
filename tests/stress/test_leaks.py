"""What is opened is closed, and what is allocated is freed: in the client, and in the engine."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import threading
from pathlib import Path

import pytest
from support import DataSet, kill_engine, open_descriptors, run_python, wait_for

import ioaccel
from ioaccel import Cache, CacheBusyError, ObjectNotFoundError
from ioaccel.testing.seaweed import SeaweedS3

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture(scope="module")
def data(s3: SeaweedS3) -> DataSet:
    s3.create_bucket("leaks")
    return DataSet.fill(s3, "leaks", [30 * KIB] * 300)


def read_in_every_way(cache: Cache, data: DataSet, n: int) -> None:
    urls = data.shuffled(n)[:40]
    cache.read_many(urls)
    cache.read(urls[0])
    with cache.open(urls[1]) as file:
        file.read(100)
    cache.stat(urls[2])
    cache.prefetch(urls[3:5])
    cache.resident(urls)
    with pytest.raises(ObjectNotFoundError):
        cache.read(urls[0] + "x")


def descriptors(engine_pid: int) -> tuple[int, int]:
    gc.collect()
    return open_descriptors(), open_descriptors(engine_pid)


def no_more_descriptors_than(before: tuple[int, int], engine_pid: int) -> bool:
    """Fewer are no leak: what an earlier test has left, of torch above all, may be closed meanwhile."""
    return all(now <= then for now, then in zip(descriptors(engine_pid), before, strict=True))


def test_descriptors_of_800_reads(s3: SeaweedS3, tmp_path: Path, data: DataSet) -> None:
    with ioaccel.connect(tmp_path, 150 * 30 * KIB, s3.storage_options) as cache:
        for n in range(10):
            read_in_every_way(cache, data, n)
        pid = cache.status()["engine_pid"]
        before = descriptors(pid)
        for n in range(100):
            read_in_every_way(cache, data, n)
        assert no_more_descriptors_than(before, pid)


def test_descriptors_of_200_connections(s3: SeaweedS3, tmp_path: Path, data: DataSet) -> None:
    with ioaccel.connect(tmp_path, "20MB", s3.storage_options) as cache:
        pid = cache.status()["engine_pid"]
        before = 0, 0
        for n in range(201):
            with ioaccel.connect(tmp_path, storage_options=s3.storage_options) as other:
                assert other.read(data.urls[n]) == data.data(data.urls[n])
            if n == 0:
                wait_for(lambda: cache.status()["clients"] == 1)
                before = descriptors(pid)
        wait_for(lambda: cache.status()["clients"] == 1)
        wait_for(lambda: no_more_descriptors_than(before, pid))


def test_descriptors_of_connections_that_fail(tmp_path: Path) -> None:
    with ioaccel.connect(tmp_path / "a", "10MB"):

        def fail() -> None:
            with pytest.raises(CacheBusyError):
                ioaccel.connect([tmp_path / "a", tmp_path / "b"], "10MB")
            gc.collect()

        fail()
        before = open_descriptors()
        for _ in range(5):
            fail()
        assert open_descriptors() <= before


def test_descriptors_of_engines_that_are_killed(s3: SeaweedS3, tmp_path: Path, data: DataSet) -> None:
    with ioaccel.connect(tmp_path, "20MB", s3.storage_options) as cache:
        counts = []
        for n in range(6):
            read_in_every_way(cache, data, n)
            kill_engine(cache)
            read_in_every_way(cache, data, n)
            counts.append(descriptors(cache.status()["engine_pid"]))
        assert all(last <= second for last, second in zip(counts[-1], counts[1], strict=True))


def test_descriptors_of_threads(s3: SeaweedS3, tmp_path: Path, data: DataSet) -> None:
    with ioaccel.connect(tmp_path, 100 * 30 * KIB, s3.storage_options) as cache:
        pid = cache.status()["engine_pid"]

        def burst() -> tuple[int, int]:
            threads = [threading.Thread(target=cache.read_many, args=(data.shuffled(n),)) for n in range(40)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            return descriptors(pid)

        mine, engines = burst()
        for _ in range(3):
            now_mine, now_engines = burst()
            # Up to 16 connections wait for the next request; they come and go.
            assert now_mine - mine <= 16
            assert now_engines - engines <= 16


EPOCHS = """
import json, sys
import ioaccel
from support import DataSet, resident_bytes
directory, options, bucket = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
data = DataSet(bucket, {f"data/{n:05d}": 30 << 10 for n in range(120)})
with ioaccel.connect(directory, 60 * (30 << 10), options) as cache:
    pid = cache.status()["engine_pid"]
    for epoch in range(21):
        urls = data.shuffled(epoch)
        for start in range(0, len(urls), 20):
            batch = cache.read_many(urls[start : start + 20])
        for url in urls[:40]:
            cache.read(url)
            with cache.open(url) as file:
                file.read()
        if epoch in (5, 20):
            print(resident_bytes(), resident_bytes(pid), flush=True)
"""


@pytest.mark.slow
def test_memory_of_twenty_epochs(s3: SeaweedS3, tmp_path: Path, data: DataSet) -> None:
    output = run_python(EPOCHS, tmp_path, json.dumps(s3.storage_options), data.bucket, seconds=50)
    (client, engine), (client_later, engine_later) = (map(int, line.split()) for line in output.splitlines())
    assert client_later - client < 3 * MIB
    assert engine_later - engine < 12 * MIB
    assert engine_later < 200 * MIB


def test_an_engine_with_few_descriptors(s3: SeaweedS3, tmp_path: Path, data: DataSet) -> None:
    """Many clients at once, started from a shell with a low limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
        try:
            cache = stack.enter_context(ioaccel.connect(tmp_path, "20MB", s3.storage_options))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        pid = cache.status()["engine_pid"]
        others = [
            stack.enter_context(ioaccel.connect(tmp_path, storage_options=s3.storage_options))
            for _ in range(80)
        ]
        for n, other in enumerate(others):
            assert other.read(data.urls[n]) == data.data(data.urls[n])
        assert cache.status()["engine_pid"] == pid
        assert cache.status()["clients"] == 81
        assert os.getpid() != pid
