"""The verbs of the command line at work; `warm`, `serve` and `doctor` have files of their own."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cli import Cli, facts
from support.data import DataSet
from support.processes import wait_for

import ioaccel
from ioaccel.testing.seaweed import SeaweedS3

SMALL = {f"train/n{n % 3}/{n:03d}": 1000 + n for n in range(60)}
SMALL_BYTES = sum(SMALL.values())


@pytest.fixture(scope="module")
def data(s3: SeaweedS3) -> DataSet:
    s3.create_bucket("test-cli")
    return DataSet.fill(s3, "test-cli", SMALL)


@pytest.fixture
def cli(tmp_path: Path, s3: SeaweedS3) -> Cli:
    return Cli(tmp_path, s3)


@pytest.fixture
def warm(cli: Cli, data: DataSet) -> Cli:
    """A command line with the small objects in its cache."""
    assert cli.cached("warm", data.url("train"), "--cache-size", "500MB").code == 0
    return cli


# ---- status, du, evict, verify ------------------------------------------------------------------


def test_status_of_a_running_engine(cli: Cli, data: DataSet, s3: SeaweedS3) -> None:
    with ioaccel.connect(cli.cache_dir, "100MB", s3.storage_options) as cache:
        cache.read(data.url("train/n0/000"))
        cache.read(data.url("train/n0/000"))
        done = cli.cached("status")
        assert (done.code, done.err) == (0, "")
        told = facts(done.out)
        assert f"process {cache.status()['engine_pid']}, " in told["engine"]
        assert told["engine"].endswith("1 client")
        assert told["hit ratio"] == "50.0%: 1 of 2 reads"
        assert done.out.splitlines()[-1].split()[0] == str(cli.cache_dir)
        found = cli.cached("status", "--json").json
        assert (found.pop("running"), found.pop("hit_ratio")) == (True, 0.5)
        assert found | {"uptime_s": 0} == cache.status() | {"uptime_s": 0}


def test_status_starts_no_engine(cli: Cli) -> None:
    done = cli.cached("status")
    assert (done.code, done.err) == (1, "")
    assert done.out.startswith("no engine is running")
    assert "no cache" in done.out
    assert not cli.cache_dir.exists()


def test_status_of_what_is_on_disk(warm: Cli) -> None:
    wait_until_alone(warm)
    found = warm.cached("status", "--json")
    assert (found.code, found.json["running"], found.json["hit_ratio"]) == (1, False, None)
    (shard,) = found.json["shards"]
    assert shard.pop("file_bytes") >= SMALL_BYTES
    assert shard == {
        "directory": str(warm.cache_dir),
        "capacity_bytes": 500_000_000,
        "health": "ok",
        "trouble": "",
    }


def test_status_by_one_of_several_directories(cli: Cli) -> None:
    with cli.serve("--cache-dir", cli.home / "a", "--cache-dir", cli.home / "b", "--cache-size", "100MB"):
        for name in "ab":
            shards = cli.run("status", "--cache-dir", cli.home / name, "--json").json["shards"]
            assert [s["directory"] for s in shards] == [str(cli.home / "a"), str(cli.home / "b")]


def test_du(warm: Cli, data: DataSet) -> None:
    done = warm.cached("du")
    assert (done.code, done.err) == (0, "")
    assert [line.split() for line in done.out.splitlines()] == [
        ["size", "blocks", "prefix"],
        ["61.8", "kB", "60", data.url("train/")],
        ["61.8", "kB", "60", "total"],
    ]


@pytest.mark.parametrize(
    ("arguments", "prefixes"),
    [
        ([], ["train/"]),
        (["--depth", "0"], [""]),
        (["--depth", "2"], ["train/n0/", "train/n1/", "train/n2/"]),
        (["URL"], ["train/"]),
        (["URL/train"], ["train/n0/", "train/n1/", "train/n2/"]),
        (["URL/train/", "--depth", "0"], ["train/"]),
        (["URL/train/n1"], ["train/n1/"]),
        (["URL/trai"], []),
    ],
)
def test_du_by_prefix(du_cli: Cli, data: DataSet, arguments: list[str], prefixes: list[str]) -> None:
    given = [a.replace("URL", f"s3://{data.bucket}") for a in arguments]
    found = du_cli.cached("du", *given, "--json").json
    assert [row["prefix"] for row in found["prefixes"]] == [data.url(p) for p in prefixes]
    sizes = [sum(s for key, s in SMALL.items() if key.startswith(p)) for p in prefixes]
    assert [row["bytes"] for row in found["prefixes"]] == sizes
    assert (found["bytes"], found["blocks"]) == (sum(sizes), sum(row["blocks"] for row in found["prefixes"]))


@pytest.fixture(scope="module")
def du_cli(tmp_path_factory: pytest.TempPathFactory, s3: SeaweedS3, data: DataSet) -> Iterator[Cli]:
    """A cache that nobody changes, with an engine that stays."""
    cli = Cli(tmp_path_factory.mktemp("du"), s3)
    with cli.serve("--cache-dir", cli.cache_dir, "--cache-size", "100MB"):
        assert cli.run("warm", data.url("train")).code == 0
        yield cli


def test_evict(warm: Cli, data: DataSet) -> None:
    one = warm.cached("evict", data.url("train/n0/000"))
    assert (one.code, one.out, one.err) == (0, "evicted 1 kB in 1 block\n", "")
    size = sum(size for key, size in SMALL.items() if key.startswith("train/n1/"))
    assert warm.cached("evict", data.url("train/n1"), "--json").json == {
        "url": data.url("train/n1"),
        "blocks": 20,
        "bytes": size,
    }
    assert warm.cached("evict", data.url("train/n1/")).out.startswith("nothing to evict")
    assert warm.cached("du", "--json").json["bytes"] == SMALL_BYTES - size - 1000


def test_verify(warm: Cli) -> None:
    done = warm.cached("verify")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("sound    60 blocks, 61.8 kB; ")
    assert done.out.endswith("corrupt  0 blocks\n")


def test_verify_finds_what_is_corrupt(warm: Cli, data: DataSet) -> None:
    wait_until_alone(warm)
    victim = data.url("train/n0/000")
    path = warm.cache_dir / "shard.data"
    content = bytearray(path.read_bytes())
    content[content.index(data.data(victim))] ^= 1
    path.write_bytes(content)
    done = warm.cached("verify", "--json")
    assert done.code == 1
    assert done.json == {"blocks": 59, "bytes": SMALL_BYTES - 1000, "corrupt": [victim], "errors": []}
    assert warm.process("verify", "--cache-dir", warm.cache_dir).code == 0, "it was not removed"


# ---- config and demo ----------------------------------------------------------------------------


def test_config(cli: Cli, s3: SeaweedS3) -> None:
    (cli.home / "ioaccel.toml").write_text(
        'cache_dir = "/from/file"\nmax_age = 60\n[storage_options]\nkey = "AKIA"\nsecret = "hush"\n'
    )
    done = cli.process("config", "--cache-size", "5GB", IOACCEL_CACHE_DIR=str(cli.cache_dir))
    assert (done.code, done.err) == (0, "")
    assert s3.secret not in done.out
    assert "hush" not in done.out
    found = cli.run("config", "--cache-size", "5GB", "--json", IOACCEL_CACHE_DIR=str(cli.cache_dir)).json
    file = str(cli.home / "ioaccel.toml")
    assert found == {
        "file": file,
        "runtime_file": str(cli.served),
        "settings": {
            "cache_dir": {"value": [str(cli.cache_dir)], "from": "IOACCEL_CACHE_DIR"},
            "cache_size": {"value": [5_000_000_000], "from": "argument"},
            "consistency": {"value": "session", "from": "default"},
            "max_age": {"value": 60.0, "from": file},
            "storage_options": {"value": {"key": "(hidden)", "secret": "(hidden)"}, "from": file},
        },
        "environment": {
            "AWS_ACCESS_KEY_ID": "(hidden)",
            "AWS_ENDPOINT_URL": s3.endpoint,
            "AWS_SECRET_ACCESS_KEY": "(hidden)",
        },
    }


def test_config_file_by_name(cli: Cli) -> None:
    (cli.home / "mine.toml").write_text('cache_dir = "/from/mine"\n')
    found = cli.run("config", "--config", "mine.toml", "--json").json
    assert found["settings"]["cache_dir"] == {"value": ["/from/mine"], "from": str(cli.home / "mine.toml")}


def test_a_config_file_that_is_no_text(cli: Cli) -> None:
    (cli.home / "mine.toml").write_bytes(b"cache_dir = '\xff'\n")
    done = cli.run("config", "--config", "mine.toml")
    assert done.code == 2
    assert "mine.toml is no text in UTF-8" in done.complaint


def test_several_directories_with_their_sizes(cli: Cli) -> None:
    given = [x for n in "ab" for x in ("--cache-dir", cli.home / n)]
    for sizes, expected in ((["1GB", "2GB"], [10**9, 2 * 10**9]), (["3GB"], [1_500_000_000] * 2)):
        arguments = itertools.chain.from_iterable(("--cache-size", s) for s in sizes)
        found = cli.run("config", *given, *arguments, "--json").json
        assert found["settings"]["cache_size"]["value"] == expected


@pytest.mark.slow  # it imports torch, and trains
def test_demo(cli: Cli, data: DataSet) -> None:
    arguments = [
        "--samples",
        "16",
        "--epochs",
        "2",
        "--workers",
        "0",
        "--batch-size",
        "8",
        "--json",
        "figures.json",
    ]
    done = cli.run("demo", "--url", data.url("train"), *arguments, "--cache-size", "100MB")
    assert done.code == 0, done.err
    assert (cli.home / "ioaccel-demo.png").read_bytes().startswith(b"\x89PNG")
    assert "\x1b" not in done.out
    figures: dict[str, Any] = json.loads((cli.home / "figures.json").read_text())
    assert figures["losses_identical"]
    assert len(figures["ioaccel"]["epochs"]) == 2


def wait_until_alone(cli: Cli) -> None:
    """Until the private engine of the cache has left."""
    wait_for(lambda: not (cli.cache_dir / "engine.sock").exists())
