"""``ioaccel plan`` against a real store."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.cli import PROGRAM, Cli
from support.data import DataSet
from support.processes import started

from ioaccel.predict import picture
from ioaccel.predict.measure import Measured
from ioaccel.testing.countproxy import CountingProxy, Request
from ioaccel.testing.seaweed import SeaweedS3

OBJECTS, SIZE = 150, 20_000
GIVEN = ("--cache-size", SIZE * OBJECTS // 2, "--store-delay-ms", 20)


@pytest.fixture(scope="module")
def data(s3: SeaweedS3) -> DataSet:
    s3.create_bucket("test-cli-plan")
    return DataSet.fill(s3, "test-cli-plan", [SIZE] * OBJECTS)


@pytest.fixture
def cli(tmp_path: Path, s3: SeaweedS3) -> Cli:
    return Cli(tmp_path, s3)


def origins(told: Any) -> dict[str, str]:
    return {fact["name"]: fact["origin"] for fact in told["assumed"]}


def test_what_is_given(cli: Cli, data: DataSet) -> None:
    done = cli.cached("plan", data.url("data/"), *GIVEN, "--accelerators", 2, "--json")
    assert (done.code, done.err) == (0, "")
    told = done.json
    assert told["workload"]["objects"] == told["workload"]["blocks"] == OBJECTS
    assert told["workload"]["bytes"] == data.nbytes
    assert [epoch["hit_share"] for epoch in told["epochs"]] == [0, 0.5, 0.5]
    assert [epoch["requests"] for epoch in told["epochs"]] == [150, 75, 75]
    assert told["direct"]["seconds"] > told["epochs"][0]["seconds"]
    assert told["efficiency"] == []
    assert origins(told)["delay of the store"] == origins(told)["cache of a node"] == "given"
    assert list(cli.home.glob("**/shard.data")) == [], "it makes no cache"


def test_a_node_may_have_larger_disks_than_this_machine(cli: Cli, data: DataSet) -> None:
    given = ("--cache-size", "500PB", "--store-delay-ms", 20)
    done = cli.cached("plan", data.url("data/"), *given, "--json")
    assert (done.code, done.err) == (0, "")
    assert [epoch["hit_share"] for epoch in done.json["epochs"]] == [0, 1, 1]


def test_what_is_measured(cli: Cli, data: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Measured, "limited_by_store", lambda *_: False)  # as on a calm machine
    done = cli.cached("plan", data.url("data/"), "--cache-size", "1GB", "--measure", "--json")
    assert (done.code, done.err) == (0, "")
    told = done.json
    measured = {name for name, origin in origins(told).items() if origin.startswith("measured")}
    assert origins(told)["engine"] == "measured with 150 blocks only: rough"
    assert {"delay of a request", "engine", "CPU of a fetch", "copy from memory"} <= measured
    assert "engine, full cache" not in origins(told), "it has no part in it"
    assert [epoch["requests"] for epoch in told["epochs"]] == [150, 0, 0]
    assert 0 < told["epochs"][1]["seconds"] < told["epochs"][0]["seconds"]
    assert list(cli.home.glob("**/shard.data")) == []


def test_what_is_measured_past_a_full_cache(cli: Cli, data: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Measured, "limited_by_store", lambda *_: False)  # as on a calm machine
    done = cli.cached("plan", data.url("data/"), "--cache-size", "1MB", "--measure", "--json")
    assert (done.code, done.err) == (0, "")
    assert origins(done.json)["engine, full cache"].startswith("measured")
    first, second, _ = done.json["epochs"]
    assert first["hit_share"] < second["hit_share"] < 0.5
    assert list(cli.home.glob("**/shard.data")) == []


def test_for_people(cli: Cli, data: DataSet, tmp_path: Path) -> None:
    chart = tmp_path / "chart.svg"
    money = ("--price-per-1000-gets", 1)
    done = cli.cached(
        "plan", data.url("data/"), *GIVEN, *money, "--batch", 4, "--samples-per-second", 100, "--plot", chart
    )
    assert (done.code, done.err) == (0, "")
    assert "150 objects, 3 MB; cache of 1.5 MB a node" in done.out
    rows = [line.split() for line in done.out.splitlines()]
    (second,) = [row for row in rows if row[:1] == ["2-3"] and "50.0%" in row]
    assert second[2] == "75"
    assert "0.075" in second, "what it costs"
    assert [row[:2] for row in rows if row[1:2] == ["8"]] == [["1", "8"]]
    assert any(row[:1] == ["2-3"] for row in rows), "both alike"
    (every,) = [row for row in rows if row[:2] == ["all", "epochs"]]
    assert every[3] == "300"
    assert any(row[:3] == ["without", "ioaccel,", "all"] and row[4] == "450" for row in rows)
    assert "More nodes would have less than a batch" in done.out
    assert "accelerators" in chart.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--cache-size", "1GB"), "say either --measure, or --store-delay-ms"),
        (("--cache-size", "1GB", "--store-delay-ms", 1, "--measure"), "say either --measure"),
        (("--store-delay-ms", 20), "say --cache-size"),
        ((*GIVEN, "--store-requests-per-s", 0), "--store-requests-per-s is 0"),
        ((*GIVEN, "--order", "random"), "order is one of shuffled"),
        ((*GIVEN, "--step-seconds", 0), "--step-seconds is 0"),
        ((*GIVEN, "--step-seconds", 1, "--samples-per-second", 1), "give one of them"),
        ((*GIVEN, "--samples-per-second", 0), "has to be a number above 0"),
        ((*GIVEN, "--store-rate", "fast"), "--store-rate fast"),
        (("--cache-size", "1GB", "--measure", "--disk-rate", "fast"), "--disk-rate fast"),
        ((*GIVEN, "--price-per-gb", "inf"), "--price-per-gb is inf"),
        ((*GIVEN, "--samples-per-second", "nan"), "--samples-per-second is nan"),
        ((*GIVEN, "--plot", "x.png"), "say --step-seconds"),
        ((*GIVEN, "--nodes", 3), "--nodes 3: their 24 accelerators want a batch of 64 each"),
        ((*GIVEN, "--plot", "x.txt", "--step-seconds", 1), "ends with .png"),
        ((*GIVEN, "--plot", "nowhere/x.png", "--step-seconds", 1), "nowhere has to be a directory"),
    ],
)
def test_what_makes_no_sense(cli: Cli, data: DataSet, arguments: tuple[Any, ...], said: str) -> None:
    done = cli.cached("plan", data.url("data/"), *arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.complaint.replace("Say", "say")


@pytest.mark.parametrize(
    "option",
    ["--batch", "--workers", "--epochs", "--cores", "--accelerators", "--sample-ms", "--store-delay-ms",
     "--price-per-gb"],
)  # fmt: skip
def test_what_no_job_has(cli: Cli, data: DataSet, option: str) -> None:
    done = cli.cached("plan", data.url("data/"), "--cache-size", "1GB", option, -1)
    assert (done.code, done.out) == (2, "")
    assert f"Invalid value for '{option}': Input should be greater than or equal to" in done.err


def test_a_job_without_end(cli: Cli, data: DataSet) -> None:
    done = cli.cached("plan", data.url("data/"), *GIVEN, "--epochs", 10**12)
    assert done.code == 2
    assert "Invalid value for '--epochs'" in done.err


def test_the_limit_is_the_stores(cli: Cli, s3: SeaweedS3, data: DataSet) -> None:
    """A store that takes so many requests a second, whoever asks: ioaccel does not make that worse."""
    turn = threading.Lock()

    def take_turns(request: Request) -> None:
        with turn:
            time.sleep(1 / 150)

    with CountingProxy(s3.endpoint) as proxy:
        proxy.hook = take_turns
        done = cli.cached(
            "plan", data.url("data/"), "--cache-size", "1GB", "--measure", "--json",
            AWS_ENDPOINT_URL=proxy.endpoint,
        )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    told = done.json
    assert "it gave the same" in origins(told)["store"]
    assert "engine" not in origins(told)
    assert (told["direct"]["limit"], told["epochs"][0]["limit"]) == ("store", "store")
    assert told["direct"]["seconds"] == pytest.approx(1, rel=0.4)


def test_what_cannot_be_written_is_not_measured(cli: Cli, data: DataSet, tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("")
    done = cli.run(
        "plan", data.url("data/"), "--measure", "--cache-dir", place / "cache", "--cache-size", "1GB"
    )
    assert (done.code, done.out) == (2, "")
    assert f"--measure writes to the disk of {place / 'cache'}" in done.complaint


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_nothing_is_left_behind(cli: Cli, data: DataSet, number: signal.Signals, code: int) -> None:
    """Whenever it is told to end: while its engine starts, or while it measures."""
    for delay in (0.5, 0.8, 1.1, 1.5):
        command = [PROGRAM, "plan", data.url("data/"), "--cache-size", "1GB", "--measure"]
        with started(command, env=cli.environ, cwd=cli.home, stdout=subprocess.DEVNULL) as running:
            time.sleep(delay)
            running.send_signal(number)
            assert running.wait(20) in (code, 0, -number)
        assert not list(cli.home.rglob("ioaccel-scratch-*"))


def test_nothing_there(cli: Cli, data: DataSet) -> None:
    assert cli.cached("plan", data.url("nothing/"), *GIVEN).code == 3


def test_too_little_to_measure_with(cli: Cli, data: DataSet) -> None:
    done = cli.cached("plan", data.urls[0], "--cache-size", "1GB", "--measure")
    assert done.code == 2
    assert "too few to measure with" in done.complaint


def test_without_matplotlib(cli: Cli, data: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "find_spec", lambda name: None)
    done = cli.cached("plan", data.url("data/"), *GIVEN, "--plot", "x.png", "--step-seconds", 1)
    assert done.code == 2
    assert "pip install 'ioaccel[demo]'" in done.complaint
