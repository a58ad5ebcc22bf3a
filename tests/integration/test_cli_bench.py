"""``ioaccel bench`` on objects of a real store."""

from __future__ import annotations

import itertools
import re
import signal
from pathlib import Path

import pytest
from support.cli import PROGRAM, Cli
from support.data import DataSet
from support.processes import started, wait_for

from ioaccel.testing.countproxy import CountingProxy, Fault
from ioaccel.testing.seaweed import SeaweedS3

OBJECTS = {f"train/{n:03d}": 20_000 + n for n in range(80)}


@pytest.fixture(scope="module")
def data(s3: SeaweedS3) -> DataSet:
    s3.create_bucket("test-cli-bench")
    return DataSet.fill(s3, "test-cli-bench", OBJECTS | {"other/object": 10})


@pytest.fixture
def cli(tmp_path: Path, s3: SeaweedS3) -> Cli:
    return Cli(tmp_path, s3)


def test_figures_of_each_way(cli: Cli, data: DataSet) -> None:
    done = cli.process("bench", "--url", data.url("train/"), "--epochs", "3", "--json")
    assert done.code == 0, done.err
    found = done.json
    size = sum(OBJECTS.values())
    assert (found["objects"], found["bytes"]) == (80, size)
    assert (found["compared"], found["different"]) == (32, 0)
    names = ["directly, 2 at once", "directly, 64 at once"]
    assert [arm["name"] for arm in found["arms"]] == [*names, *(f"ioaccel, epoch {n}" for n in (1, 2, 3))]
    assert all((arm["objects"], arm["bytes"]) == (80, size) for arm in found["arms"])
    assert [arm["store_bytes"] for arm in found["arms"]] == [None, None, size, 0, 0]
    assert all(arm["objects_per_s"] > 0 for arm in found["arms"])


def test_a_table_for_a_person(cli: Cli, data: DataSet) -> None:
    done = cli.process("bench", "--url", data.url("train/"), "--samples", "40", "--workers", "4")
    assert done.code == 0
    assert "40 objects, " in done.out.splitlines()[0]
    assert "directly, 4 at once" in done.out
    assert "Compared byte by byte: 32 objects." in done.out


def test_a_store_that_asks_for_fewer_requests(cli: Cli, s3: SeaweedS3, data: DataSet) -> None:
    with CountingProxy(s3.endpoint) as proxy:
        count = itertools.count(1)
        proxy.hook = lambda request: Fault(status=503) if next(count) % 10 == 0 else None
        done = cli.run("bench", "--url", data.url("train/"), AWS_ENDPOINT_URL=proxy.endpoint)
        assert done.code == 0, done.err
        assert "the store asked for fewer requests (429, 503)" in done.out
        proxy.hook = lambda request: Fault(status=503) if "list-type" not in request.path else None
        done = cli.run("bench", "--url", data.url("train/"), AWS_ENDPOINT_URL=proxy.endpoint)
    assert done.code == 5
    assert re.search(r"check that the endpoint is right.* attempts in [1-9]\d*\.\d s", done.complaint)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_nothing_is_left_behind(cli: Cli, data: DataSet, tmp_path: Path, number: int, code: int) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [PROGRAM, "bench", "--url", data.url("train/"), "--epochs", "100000"]
    with started(command, env=cli.environ | {"TMPDIR": str(scratch)}, cwd=cli.home) as running:
        wait_for(lambda: list(scratch.glob("ioaccel-scratch-*/shard.data")))
        running.send_signal(number)
        assert running.wait(20) == code
    assert not list(scratch.iterdir())


def test_a_prefix_with_nothing_to_read(cli: Cli, data: DataSet) -> None:
    done = cli.process("bench", "--url", data.url("nothing/"))
    assert done.code == 3
    assert "nothing" in done.complaint
