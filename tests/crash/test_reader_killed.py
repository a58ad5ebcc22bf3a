"""SIGKILL of readers: nothing is left behind, and nobody else notices."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest
from support import DataSet, gone, open_descriptors, python, wait_for

import ioaccel
from ioaccel.testing.seaweed import SeaweedS3

pytestmark = pytest.mark.crash

READER = """
import itertools, pathlib, pickle, sys, threading
cache, data = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())
def read(seed):
    for n in itertools.count():
        batch = cache.read_many(data.shuffled(seed + n)[:50])
        if n == 3 and seed == 0:
            print("reading", flush=True)
for seed in range(2):
    threading.Thread(target=read, args=(seed,)).start()
"""


@pytest.fixture(scope="module")
def data(s3: SeaweedS3) -> DataSet:
    s3.create_bucket("reader-killed")
    return DataSet.fill(s3, "reader-killed", [40_000] * 300)


def test_killed_readers_leave_nothing_behind(s3: SeaweedS3, tmp_path: Path, data: DataSet) -> None:
    # Half of the data fits, so that they are killed in the middle of fetching, too.
    with ioaccel.connect(tmp_path / "cache", 150 * 40_000, s3.storage_options) as cache:
        (tmp_path / "job").write_bytes(pickle.dumps((cache, data)))
        cache.read_many(data.urls)
        pid = cache.status()["engine_pid"]

        def kill_two() -> None:
            with python(READER, tmp_path / "job") as one, python(READER, tmp_path / "job") as other:
                for reader in (one, other):
                    assert reader.stdout is not None
                    assert reader.stdout.readline() == "reading\n"
                assert cache.status()["clients"] == 3
            wait_for(lambda: cache.status()["clients"] == 1)

        kill_two()
        hits = cache.status()["hits"]
        assert hits > 0
        before = open_descriptors(pid)
        kill_two()
        wait_for(lambda: open_descriptors(pid) <= before)
        assert cache.status()["hits"] > hits  # what they read stays counted
        batch = cache.read_many(data.urls)
        assert all(bytes(view) == data.data(url) for view, url in zip(batch, data.urls, strict=True))
        assert cache.status()["engine_pid"] == pid


def test_the_engine_leaves_after_the_last_reader_was_killed(
    s3: SeaweedS3, tmp_path: Path, data: DataSet
) -> None:
    with ioaccel.connect(tmp_path / "cache", "20MB", s3.storage_options) as cache:
        (tmp_path / "job").write_bytes(pickle.dumps((cache, data)))
        pid = cache.status()["engine_pid"]
        with python(READER, tmp_path / "job") as reader:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "reading\n"
            cache.close()
            time.sleep(1.5)
            assert not gone(pid)
    wait_for(lambda: gone(pid), 5)
    assert not (tmp_path / "cache" / "engine.sock").exists()
