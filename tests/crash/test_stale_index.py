"""A reader that slept through the death of its engine must not believe what it held.

The engine is killed while a reader stands between looking up and copying. Its successor gives the space
to other data. When the reader goes on, the bytes where it looked are somebody else's.
"""

from __future__ import annotations

import os
import pickle
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from support import DataSet, kill_engine, python, wait_for

import ioaccel
from ioaccel import Cache
from ioaccel._core._client import Request
from ioaccel.testing.seaweed import SeaweedS3

pytestmark = pytest.mark.crash

KIB = 1 << 10
COUNT, SIZE = 300, 50 * KIB


@pytest.fixture(scope="module")
def mine(s3: SeaweedS3) -> DataSet:
    s3.create_bucket("stale-mine")
    return DataSet.fill(s3, "stale-mine", [SIZE] * COUNT)


@pytest.fixture(scope="module")
def theirs(s3: SeaweedS3) -> DataSet:
    s3.create_bucket("stale-theirs")
    return DataSet.fill(s3, "stale-theirs", [SIZE] * (2 * COUNT))


def connect(s3: SeaweedS3, directory: Path) -> Cache:
    return ioaccel.connect(directory, COUNT * SIZE, s3.storage_options)


def overwrite(s3: SeaweedS3, directory: Path, mine: DataSet, theirs: DataSet) -> None:
    """Fills the cache with the other data set, as a job that comes later would."""
    with connect(s3, directory) as cache:
        cache.read_many(theirs.urls)
        cache.prefetch(theirs.urls, wait=True)
        assert sum(cache.resident(mine.urls)) == 0
        assert sum(cache.resident(theirs.urls)) == COUNT * SIZE
        kill_engine(cache)  # so that the reader is the first to ask the next one


def test_a_copy_that_began_under_the_old_engine_fails(
    s3: SeaweedS3, tmp_path: Path, mine: DataSet, theirs: DataSet
) -> None:
    with connect(s3, tmp_path) as cache:
        cache.read_many(mine.urls)
        reader = cache._reader
        view = reader._current()
        assert view is not None
        request = Request(mine.urls, reader._ring, reader.canonical)
        assert request.lookup(view, reader.oldest_ms()) == 0
        buffer = np.zeros(request.offsets(np.empty(COUNT + 1, np.int64)), np.uint8)
        assert request.copy(buffer, 1)
        kill_engine(cache)
        overwrite(s3, tmp_path, mine, theirs)
        assert not request.copy(buffer, 1)
        assert buffer.tobytes() != b"".join(map(mine.data, mine.urls))  # it was indeed overwritten
        assert not request.unreadable
        assert b"".join(cache.read_many(mine.urls)) == b"".join(map(mine.data, mine.urls))


READER = """
import pathlib, pickle, sys
job, progress = map(pathlib.Path, sys.argv[1:])
cache, data = pickle.loads(job.read_bytes())
want = [data.data(url) for url in data.urls]
rounds = 0
while True:
    for start in range(0, len(want), 100):
        got = list(map(bytes, cache.read_many(data.urls[start : start + 100])))
        if got != want[start : start + 100]:
            sys.exit("wrong bytes")
    rounds += 1
    progress.write_text(str(rounds))
"""


@pytest.mark.slow
def test_a_reader_that_was_stopped(s3: SeaweedS3, tmp_path: Path, mine: DataSet, theirs: DataSet) -> None:
    directory, job, progress = tmp_path / "cache", tmp_path / "job", tmp_path / "progress"
    draw = random.Random(11)
    with connect(s3, directory) as cache:
        job.write_bytes(pickle.dumps((cache, mine)))

    def rounds() -> int:
        try:
            return int(progress.read_text() or 0)
        except FileNotFoundError:
            return 0

    with python(READER, job, progress) as reader:
        for _ in range(2):
            before = rounds()
            wait_for(lambda b=before: rounds() > b + 5, 20)
            time.sleep(draw.uniform(0, 0.05))
            os.kill(reader.pid, signal.SIGSTOP)
            with connect(s3, directory) as cache:
                kill_engine(cache)
            overwrite(s3, directory, mine, theirs)
            os.kill(reader.pid, signal.SIGCONT)
        before = rounds()
        wait_for(lambda: rounds() > before + 5, 20)
        assert reader.poll() is None
