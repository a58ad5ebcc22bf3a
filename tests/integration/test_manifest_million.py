"""A manifest of a million objects: listed once, then opened at once, in little memory."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import run_python
from support.million import OBJECTS, million_objects

import ioaccel


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with million_objects() as endpoint:
        yield endpoint


SECOND_USE = """
import sys, time, ioaccel
cache_dir, endpoint = sys.argv[1:]
options = {"key": "k", "secret": "s", "endpoint_url": endpoint}
with ioaccel.connect(cache_dir, storage_options=options) as cache:
    begun = time.perf_counter()
    table = cache.manifest("s3://bucket/train/")
    seconds = time.perf_counter() - begun
    assert table.num_rows == 1_000_000, table.num_rows
    assert table["key"][999_999].as_py() == "train/0999999.jpg"
    assert table["size"][123_456].as_py() == 456
    with open("/proc/self/status") as status:
        rss = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    print(seconds, rss / 1024)
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache directory for all tests here: to list a million objects takes its time."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.timeout(120)
def test_a_million_objects_open_in_under_a_second_from_the_second_use_on(directory, endpoint, capsys):
    options = {"key": "k", "secret": "s", "endpoint_url": endpoint}
    with ioaccel.connect(directory, "10MB", options) as cache:
        begun = time.perf_counter()
        assert cache.manifest("s3://bucket/train/").num_rows == OBJECTS
        first = time.perf_counter() - begun
        begun = time.perf_counter()
        table = cache.manifest("s3://bucket/train/")
        same_session = time.perf_counter() - begun
    assert table.schema.metadata[b"ioaccel.root"] + table["key"][0].as_py().encode() == (
        b"s3://bucket/train/0000000.jpg"
    )
    # Another process is another session.
    done = subprocess.run(
        [sys.executable, "-c", SECOND_USE, str(directory), endpoint],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seconds, megabytes = map(float, done.stdout.split())
    with capsys.disabled():
        print(
            f"\n  manifest of {OBJECTS:,}: first use {first:.1f} s, second {same_session * 1e3:.0f} ms, "
            f"in another process {seconds * 1e3:.0f} ms and {megabytes:.0f} MB"
        )
    assert same_session < 1.0
    assert seconds < 1.0
    assert megabytes < 100


A_MILLION = """
import pickle, sys, time
import ioaccel, torch
from ioaccel.torch import ObjectDataset
cache_dir, endpoint = sys.argv[1:]
options = {"key": "k", "secret": "s", "endpoint_url": endpoint}
with ioaccel.connect(cache_dir, "10MB", options) as cache:
    begun = time.perf_counter()
    dataset = ObjectDataset("s3://bucket/train/", cache=cache)
    item = dataset[123_456]
    seconds = time.perf_counter() - begun
    assert len(dataset) == 1_000_000 and len(item) == 456, (len(dataset), len(item))
    indices = torch.randperm(len(dataset))[:64].tolist()
    times = []
    for _ in range(20):
        begun = time.perf_counter()
        extents = dataset.extents(indices)
        times.append(time.perf_counter() - begun)
    assert [e[0][2] for e in extents] == [i % 1000 for i in indices]
    print(seconds, min(times), len(pickle.dumps(dataset)))
"""


@pytest.mark.timeout(120)
def test_a_data_set_of_a_million_objects(directory, endpoint, capsys):
    """After the manifest is there, and a list of its samples was made once."""
    runs = [run_python(A_MILLION, directory, endpoint, seconds=90).split() for _ in range(2)]
    (first, _, _), (second, extents, pickled) = [list(map(float, run)) for run in runs]
    with capsys.disabled():
        print(
            f"\n  data set of 1,000,000 objects and its first item: {first:.1f} s, then {second:.2f} s; "
            f"extents of 64: {extents * 1e6:.0f} us; pickled {pickled:.0f} bytes"
        )
    assert second < 1.0
    assert extents < 0.001
    assert pickled < 3000
