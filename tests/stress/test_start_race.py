"""Many processes that want the same engine at once, or at the moment when it leaves."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import DataSet, gone, kill_engine, python, wait_for

import ioaccel
from ioaccel.testing.seaweed import SeaweedS3

CONNECT = """
import json, pathlib, sys, time
import ioaccel
directory, options, url, go = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3], pathlib.Path(sys.argv[4])
print("ready", flush=True)
while not go.exists():
    time.sleep(0.001)
with ioaccel.connect(directory, "10MB", options) as cache:
    size = len(cache.read(url))
    print(cache.status()["engine_pid"], size, flush=True)
    time.sleep(0.5)
"""


@pytest.mark.slow
def test_ten_at_once_get_one_engine(s3: SeaweedS3, bucket: str, tmp_path: Path) -> None:
    data = DataSet.fill(s3, bucket, [1000])
    directory, go = tmp_path / "cache", tmp_path / "go"
    # A killed engine leaves its socket, and a lock file that names its process.
    with ioaccel.connect(directory, "10MB", s3.storage_options) as cache:
        kill_engine(cache)
    assert (directory / "engine.sock").exists()
    with contextlib.ExitStack() as stack:
        arguments = (directory, json.dumps(s3.storage_options), data.urls[0], go)
        processes = [stack.enter_context(python(CONNECT, *arguments)) for _ in range(10)]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        go.touch()
        answers = [process.communicate(timeout=40)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0] * 10
    assert {size for _, size in answers} == {"1000"}
    assert len({pid for pid, _ in answers}) == 1
    wait_for(lambda: gone(int(answers[0][0])))


@pytest.mark.slow
def test_connecting_while_the_engine_leaves(s3: SeaweedS3, bucket: str, tmp_path: Path) -> None:
    data = DataSet.fill(s3, bucket, [1000])
    pids: list[set[int]] = [set() for _ in range(6)]

    def come_and_go(n: int) -> None:
        for m in range(3):
            with ioaccel.connect(tmp_path / str(n), "10MB", s3.storage_options) as cache:
                assert cache.read(data.urls[0]) == data.data(data.urls[0])
                pids[n].add(cache.status()["engine_pid"])
            time.sleep(1.0 + n / 25 + m / 100)  # it lingers for a second, and looks every 0.2 s

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(come_and_go, range(6)))
    assert max(map(len, pids)) > 1


def test_twenty_threads_connect_at_once(s3: SeaweedS3, bucket: str, tmp_path: Path) -> None:
    data = DataSet.fill(s3, bucket, [1000])
    pids: list[int] = []

    def connect() -> None:
        with ioaccel.connect(tmp_path, "10MB", s3.storage_options) as cache:
            assert cache.read(data.urls[0]) == data.data(data.urls[0])
            pids.append(cache.status()["engine_pid"])

    threads = [threading.Thread(target=connect) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(pids) == 20
    assert len(set(pids)) == 1
