"""One cache in many processes: made before or after a fork, spawned, in pools and in DataLoader workers."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import resource
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
from support import DataSet, kill_engine, run_python, wait_for

import ioaccel
from ioaccel import Cache
from ioaccel.testing.seaweed import SeaweedS3

METHODS = ["fork", "spawn", "forkserver"]


@pytest.fixture(scope="module")
def data(s3: SeaweedS3) -> DataSet:
    s3.create_bucket("cache-processes")
    return DataSet.fill(s3, "cache-processes", [3000 * n for n in range(80)] + [5 << 20])


@pytest.fixture
def cache(s3: SeaweedS3, tmp_path: Path) -> Iterator[Cache]:
    """Half of the data fits: there are hits and misses in every process."""
    with ioaccel.connect(tmp_path / "cache", "8MB", s3.storage_options) as cache:
        yield cache


def read_all(cache: Cache, data: DataSet, seed: int = 0) -> int:
    """Reads everything in three ways and checks every byte; how many objects there are."""
    urls = data.shuffled(seed)
    assert all(bytes(view) == data.data(url) for view, url in zip(cache.read_many(urls), urls, strict=True))
    for url in urls[:20]:
        assert cache.read(url) == data.data(url)
        with cache.open(url) as file:
            assert file.read() == data.data(url)
    return len(urls)


def in_a_fork(work: Callable[[], object]) -> None:
    """Runs ``work`` in a forked child, which must succeed in time."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001  # the child must not go on as pytest
            traceback.print_exc()
        finally:
            os._exit(code)

    def ended() -> bool:
        pid, status = os.waitpid(child, os.WNOHANG)
        assert status == 0
        return pid == child

    try:
        wait_for(ended, 20)
    except AssertionError:
        os.kill(child, 9)
        raise


def test_made_before_the_fork(cache: Cache, data: DataSet) -> None:
    read_all(cache, data)
    for seed in range(3):
        in_a_fork(lambda s=seed: read_all(cache, data, s))
    assert read_all(cache, data) == len(data.urls)
    wait_for(lambda: cache.status()["clients"] == 1)


def test_made_before_the_fork_and_never_used(cache: Cache, data: DataSet) -> None:
    in_a_fork(lambda: read_all(cache, data))
    read_all(cache, data)


def test_made_in_the_child(s3: SeaweedS3, tmp_path: Path, data: DataSet) -> None:
    def connect_and_read() -> None:
        with ioaccel.connect(tmp_path, "8MB", s3.storage_options) as cache:
            read_all(cache, data)

    for _ in range(2):
        in_a_fork(connect_and_read)
    connect_and_read()


def test_closed_in_the_child_and_open_in_the_parent(cache: Cache, data: DataSet) -> None:
    read_all(cache, data)
    in_a_fork(cache.close)
    read_all(cache, data)


def test_closed_in_the_parent_and_open_in_the_child(cache: Cache, data: DataSet) -> None:
    reading, closed = os.pipe(), os.pipe()

    def read_after_the_parent_closed() -> None:
        read_all(cache, data)
        os.write(reading[1], b"x")
        os.read(closed[0], 1)
        read_all(cache, data)

    def close() -> None:
        os.read(reading[0], 1)
        cache.close()
        os.write(closed[1], b"x")

    closer = threading.Thread(target=close)
    closer.start()
    in_a_fork(read_after_the_parent_closed)
    closer.join()


def test_grandchildren(cache: Cache, data: DataSet) -> None:
    def fork_again() -> None:
        read_all(cache, data, 1)
        in_a_fork(lambda: read_all(cache, data, 2))
        read_all(cache, data, 3)

    read_all(cache, data)
    in_a_fork(fork_again)


def test_open_files_and_batches_of_the_parent(cache: Cache, data: DataSet) -> None:
    url = data.urls[-1]
    batch = cache.read_many(data.urls)
    with cache.open(url) as file:
        file.read(1 << 20)

        def go_on() -> None:
            assert file.read() == data.data(url)[1 << 20 :]
            batch.buffer[:] = 0

        in_a_fork(go_on)
        assert file.read() == data.data(url)[1 << 20 :]
        assert bytes(batch[-1]) == data.data(url)


def test_the_engine_dies_while_there_are_children(cache: Cache, data: DataSet) -> None:
    read_all(cache, data)

    def kill_and_read() -> None:
        kill_engine(cache)
        read_all(cache, data)

    in_a_fork(kill_and_read)
    read_all(cache, data)
    in_a_fork(lambda: read_all(cache, data))


@pytest.mark.parametrize("method", METHODS)
def test_pools(cache: Cache, data: DataSet, method: str) -> None:
    context = multiprocessing.get_context(method)
    read_all(cache, data)
    with context.Pool(2) as pool:
        assert pool.starmap(read_all, [(cache, data, seed) for seed in range(4)]) == [len(data.urls)] * 4
        pool.close()
        pool.join()
    wait_for(lambda: cache.status()["clients"] == 1)


def test_executors(cache: Cache, data: DataSet) -> None:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as executor:
        futures = [executor.submit(read_all, cache, data, seed) for seed in range(3)]
        assert [future.result(30) for future in futures] == [len(data.urls)] * 3
    wait_for(lambda: cache.status()["clients"] == 1)


def test_a_pickled_cache_is_the_same_session(cache: Cache, data: DataSet, s3: SeaweedS3) -> None:
    cache.read(data.urls[1])
    requests = cache.status()["store_requests"]
    with pickle.loads(pickle.dumps(cache)) as copy:
        assert copy.read(data.urls[1]) == data.data(data.urls[1])
        assert copy.directories == cache.directories
        assert copy.status()["store_requests"] == requests  # the version was not checked again


class Samples:
    """A map-style dataset: one object a sample."""

    def __init__(self, cache: Cache, data: DataSet) -> None:
        self.cache = cache
        self.data = data

    def __len__(self) -> int:
        return len(self.data.urls)

    def __getitem__(self, index: int) -> tuple[int, bool]:
        url = self.data.urls[index]
        with self.cache.open(url) as file:
            return index, file.read() == self.data.data(url) == self.cache.read(url)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_data_loader_workers(cache: Cache, data: DataSet, method: str) -> None:
    from torch.utils.data import DataLoader

    loader = DataLoader(
        Samples(cache, data),  # type: ignore[arg-type]
        batch_size=8,
        shuffle=True,
        num_workers=2,
        multiprocessing_context=method,
        persistent_workers=True,
        timeout=30,
    )
    for _ in range(2):
        seen, right = zip(*((i, ok) for batch in loader for i, ok in zip(*batch, strict=True)), strict=True)
        assert sorted(map(int, seen)) == list(range(len(data.urls)))
        assert all(right)
    assert cache.status()["clients"] == 3
    assert cache.status()["direct_bytes"] == 0
    loader._iterator._shutdown_workers()  # type: ignore[union-attr]


def test_the_engine_has_room_for_descriptors_before_it_needs_them(cache: Cache) -> None:
    """Later the kernel's table grows while all threads that open a connection wait."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 1024:
        pytest.skip("fewer descriptors are allowed here")
    status = Path(f"/proc/{cache.status()['engine_pid']}/status").read_text()
    [size] = [int(line.split()[1]) for line in status.splitlines() if line.startswith("FDSize:")]
    assert size >= 1024


def test_an_engine_whose_caller_was_interrupted_does_not_wait_for_it(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    settings = {
        "directories": [str(tmp_path)],
        "capacities": [10**7],
        "report_fd": writer,
        "sys_path": sys.path,
    }
    with (tmp_path / "engine.log").open("wb") as log:
        command = [sys.executable, "-P", "-m", "ioaccel.daemon", json.dumps(settings)]
        subprocess.run(command, check=True, stderr=log, pass_fds=[writer], start_new_session=True)
    os.close(writer)
    wait_for(lambda: "leaving" in (tmp_path / "engine.log").read_text())
    assert not (tmp_path / "engine.sock").exists()


def test_threads(cache: Cache, data: DataSet) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda seed: read_all(cache, data, seed), range(16))) == [len(data.urls)] * 16
    assert cache.status()["clients"] == 1


@pytest.mark.slow
def test_eight_threads_read_while_children_are_forked(cache: Cache, data: DataSet) -> None:
    stop, failures = threading.Event(), []

    def read(seed: int) -> None:
        try:
            while not stop.is_set():
                read_all(cache, data, seed)
        except BaseException as error:  # noqa: BLE001  # raised below
            failures.append(error)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    try:
        for seed in range(5):
            in_a_fork(lambda s=seed: read_all(cache, data, s))
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    if failures:
        raise failures[0]
    wait_for(lambda: cache.status()["clients"] == 1)


FORK_WHILE_CONNECTING = """
import os, sys, threading, time
import ioaccel
from ioaccel.client import default
def read():
    with ioaccel.open(sys.argv[1]) as file:
        os.write(1, b"%d\\n" % len(file.read()))
thread = threading.Thread(target=read)
thread.start()
while not default._lock.locked():
    time.sleep(0.001)
child = os.fork()
read()
if child == 0:
    os._exit(0)
thread.join()
assert os.waitpid(child, 0)[1] == 0
default.default_cache().close()
"""


def test_a_fork_while_the_default_cache_is_being_made(
    s3: SeaweedS3, tmp_path: Path, data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        "IOACCEL_CACHE_DIR": str(tmp_path),
        "IOACCEL_CACHE_SIZE": "8MB",
        "AWS_ACCESS_KEY_ID": s3.key,
        "AWS_SECRET_ACCESS_KEY": s3.secret,
        "AWS_ENDPOINT_URL": s3.endpoint,
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert run_python(FORK_WHILE_CONNECTING, data.urls[7], seconds=20).split() == ["21000"] * 3
