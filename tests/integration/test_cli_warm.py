"""``ioaccel warm`` against a real store."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.cli import Cli, facts
from support.data import DataSet

import ioaccel
from ioaccel.testing.seaweed import SeaweedS3

MIB = 1 << 20
SMALL = {f"train/n{n % 3}/{n:03d}": 1000 + n for n in range(60)}
LARGE = {"val/large": 70 * MIB, "val/empty": 0}
SMALL_BYTES = sum(SMALL.values())


@pytest.fixture(scope="module")
def data(s3: SeaweedS3) -> DataSet:
    s3.create_bucket("test-cli-warm")
    return DataSet.fill(s3, "test-cli-warm", SMALL | LARGE)


@pytest.fixture
def cli(tmp_path: Path, s3: SeaweedS3) -> Cli:
    return Cli(tmp_path, s3)


@pytest.fixture
def warm(cli: Cli, data: DataSet) -> Cli:
    """A command line with the small objects in its cache."""
    assert cli.cached("warm", data.url("train"), "--cache-size", "500MB").code == 0
    return cli


def test_warm(cli: Cli, data: DataSet, s3: SeaweedS3) -> None:
    done = cli.process("warm", f"s3://{data.bucket}", "--cache-dir", cli.cache_dir, "--cache-size", "500MB")
    assert (done.code, done.err) == (0, "")
    told = facts(done.out)
    assert told["stored"] == "62 of 62 objects, 73.5 MB of 73.5 MB"
    assert told["failed"] == "0 objects"
    assert told["took"].endswith("objects/s")
    connected = ioaccel.connect(cli.cache_dir, storage_options=s3.storage_options, consistency="immutable")
    with connected as cache:
        before = cache.status()["store_requests"]
        assert all(
            bytes(part) == data.data(url)
            for url, part in zip(data.urls, cache.read_many(data.urls), strict=True)
        )
        assert cache.status()["store_requests"] == before, "it was not all in the cache"


def test_warm_again_fetches_nothing(warm: Cli, data: DataSet) -> None:
    with warm.serve("--cache-dir", warm.cache_dir):
        assert warm.run("warm", data.url("train")).code == 0
        assert warm.run("status", "--json").json["store_bytes"] == 0


def test_warm_json(warm: Cli, data: DataSet) -> None:
    found = warm.cached("warm", data.url("train/n0/"), "--json").json
    assert found.pop("seconds") < 30
    size = sum(size for key, size in SMALL.items() if key.startswith("train/n0/"))
    assert found == {
        "url": data.url("train/n0/"),
        "objects": 20,
        "bytes": size,
        "stored": 20,
        "stored_bytes": size,
        "passed": 0,
        "failed": 0,
        "errors": [],
    }


def test_warm_one_object(cli: Cli, data: DataSet) -> None:
    assert (
        cli.cached("warm", data.url("val/large"), "--cache-size", "500MB", "--json").json["stored_bytes"]
        == 70 * MIB
    )


def test_warm_a_list(cli: Cli, data: DataSet) -> None:
    """Sizes are not known: the large object turns out to be large on the way."""
    lines = ["# mine", "", *data.urls]
    (cli.home / "list").write_text("\n".join(lines))
    done = cli.cached("warm", "-f", "list", "--cache-size", "500MB", "--json")
    assert (done.code, done.json["stored"], done.json["stored_bytes"]) == (0, len(data.urls), data.nbytes)


def test_warm_a_list_from_stdin(cli: Cli, data: DataSet) -> None:
    urls = [data.url("train/n0/000"), data.url("missing/a"), data.url("missing/b")]
    done = cli.process(
        "warm", "-f", "-", "--cache-dir", cli.cache_dir, "--cache-size", "100MB", input="\n".join(urls)
    )
    assert done.code == 1
    assert facts(done.out)["stored"] == "1 of 3 objects, 1 kB"
    assert facts(done.out)["failed"] == "2 objects"
    assert done.err.splitlines() == [f"ioaccel: {url} does not exist; check the key" for url in urls[1:]]


def test_warm_a_list_of_which_nothing_is_there(cli: Cli, data: DataSet) -> None:
    done = cli.run(
        "warm", "-f", "-", "--cache-dir", cli.cache_dir, "--cache-size", "100MB", input=data.url("none")
    )
    assert done.code == 3


def test_warm_a_cache_that_is_too_small(cli: Cli, data: DataSet) -> None:
    done = cli.cached("warm", data.url("train"), "--cache-size", "20kB")
    assert done.code == 1
    told = facts(done.out)
    stored = int(told["stored"].split()[0])
    assert 15 <= stored < 20
    assert told["passed"] == f"{60 - stored} objects, because the cache is full"


def test_warm_local_files(cli: Cli) -> None:
    (cli.home / "files").mkdir()
    for n in range(10):
        (cli.home / "files" / str(n)).write_bytes(os.urandom(100))
    done = cli.cached("warm", "files", "--cache-size", "100MB", "--json")
    assert (done.code, done.json["stored"], done.json["stored_bytes"]) == (0, 10, 1000)


def test_check_asks_the_store_for_the_listing_only(warm: Cli, data: DataSet) -> None:
    with warm.serve("--cache-dir", warm.cache_dir):
        done = warm.run("warm", "--check", f"s3://{data.bucket}")
        assert (done.code, done.err) == (1, "")
        # The empty object is there as a whole, whether it is cached or not.
        assert facts(done.out) == {"cached": "61 of 62 objects, 61.8 kB of 73.5 MB"}
        found = warm.run("warm", "--check", data.url("train"), "--json")
        assert (found.code, found.json["stored"], found.json["stored_bytes"]) == (0, 60, SMALL_BYTES)
        status = warm.run("status", "--json").json
        assert (status["store_bytes"], status["store_requests"]) == (0, 2)
