"""``ioaccel serve``: found by every process of the user, alone, and gone without a trace."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support.cli import Cli
from support.data import DataSet
from support.processes import gone, wait_for

import ioaccel
from ioaccel.testing.seaweed import SeaweedS3

# What a job does: connects, with what it is told in its arguments, and reads.
JOB = """
import json, sys, ioaccel
directories, url = json.loads(sys.argv[1])
with ioaccel.connect(*([directories] if directories else [])) as cache:
    data = cache.read(url)
    print(json.dumps([cache.status()["engine_pid"], cache.directories, len(data)]))
"""


@pytest.fixture(scope="module")
def data(s3: SeaweedS3) -> DataSet:
    s3.create_bucket("test-cli-serve")
    return DataSet.fill(s3, "test-cli-serve", [1000] * 10)


@pytest.fixture
def cli(tmp_path: Path, s3: SeaweedS3) -> Cli:
    return Cli(tmp_path, s3)


def job(cli: Cli, url: str, directories: list[str] | None = None) -> tuple[int, list[str], int]:
    """The engine and the directories that another process reads through, and how much it read."""
    done = subprocess.run(
        [sys.executable, "-c", JOB, json.dumps([directories, url])],
        env=cli.environ,
        check=True,
        stdout=subprocess.PIPE,
        timeout=30,
    )
    pid, found, size = json.loads(done.stdout)
    return pid, found, size


def test_it_is_found_by_other_processes(cli: Cli, data: DataSet) -> None:
    a, b = str(cli.home / "a"), str(cli.home / "b")
    with cli.serve("--cache-dir", b, "--cache-dir", a, "--cache-size", "100MB") as daemon:
        assert job(cli, data.urls[0]) == (daemon.pid, [a, b], 1000)
        assert job(cli, data.urls[1], [a, b]) == (daemon.pid, [a, b], 1000)
        assert job(cli, data.urls[1], [b, a]) == (daemon.pid, [a, b], 1000)
        found = cli.run("status", "--json").json
        assert (found["engine_pid"], found["blocks"], found["hits"]) == (daemon.pid, 2, 1)
        # A job that asks for another directory gets an engine of its own.
        assert job(cli, data.urls[0], [str(cli.home / "c")])[0] != daemon.pid


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_leaves_cleanly(cli: Cli, number: signal.Signals) -> None:
    with cli.serve("--cache-dir", cli.cache_dir, "--cache-size", "100MB") as daemon:
        assert json.loads(cli.served.read_text()) == {"pid": daemon.pid, "directories": [str(cli.cache_dir)]}
        assert stat.S_IMODE(cli.served.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(cli.served.stat().st_mode) == 0o600
        daemon.send_signal(number)
        assert daemon.wait(10) == 0
    assert not cli.served.exists()
    assert not (cli.cache_dir / "engine.sock").exists()
    assert "Traceback" not in cli.serve_log
    assert f"serving ['{cli.cache_dir}']" in cli.serve_log
    assert f"leaving ['{cli.cache_dir}']" in cli.serve_log


def test_it_leaves_while_clients_are_attached(cli: Cli, data: DataSet, s3: SeaweedS3) -> None:
    with (
        cli.serve("--cache-dir", cli.cache_dir, "--cache-size", "100MB") as daemon,
        ioaccel.connect(cli.cache_dir, storage_options=s3.storage_options) as cache,
    ):
        assert cache.read(data.urls[0]) == data.data(data.urls[0])
        daemon.terminate()
        assert daemon.wait(10) == 0
        assert cache.read(data.urls[0]) == data.data(data.urls[0]), "the job does not go on"


def test_a_second_one_says_so(cli: Cli) -> None:
    with cli.serve("--cache-dir", cli.cache_dir, "--cache-size", "100MB") as daemon:
        for directory in (cli.cache_dir, cli.home / "other"):
            done = cli.run("serve", "--cache-dir", directory)
            assert (done.code, done.out) == (6, "")
            assert f"process {daemon.pid}" in done.complaint
            assert str(cli.cache_dir) in done.complaint
        assert json.loads(cli.served.read_text())["pid"] == daemon.pid


def test_a_killed_one_is_replaced(cli: Cli, data: DataSet) -> None:
    arguments = ("--cache-dir", cli.cache_dir, "--cache-size", "100MB")
    with cli.serve(*arguments) as first:
        assert cli.run("warm", data.url("data")).code == 0
        first.kill()
        first.wait()
    assert cli.served.exists()
    with cli.serve(*arguments) as second:
        assert second.pid != first.pid
        assert cli.run("status", "--json").json["recovered_blocks"] == 10
    assert not cli.served.exists()


def test_the_cache_of_a_killed_one_is_found(cli: Cli, data: DataSet) -> None:
    a, b = str(cli.home / "a"), str(cli.home / "b")
    with cli.serve("--cache-dir", a, "--cache-dir", b, "--cache-size", "100MB") as daemon:
        assert cli.run("warm", data.url("data")).code == 0
        daemon.kill()
        daemon.wait()
    pid, directories, _ = job(cli, data.urls[0])
    assert pid != daemon.pid
    assert directories == [a, b], "a job begins elsewhere with nothing"
    found = cli.run("status", "--json").json
    assert (found["blocks"], found["capacity_bytes"]) == (10, 100_000_000)
    # A daemon does what it is told, and not what an earlier one was.
    wait_for(lambda: gone(pid))
    with cli.serve("--cache-size", "50MB"):
        assert job(cli, data.urls[0])[1] == [str(cli.home / "xdg-cache" / "ioaccel")]


def test_the_file_of_a_killed_one_whose_cache_is_gone_does_not_count(cli: Cli) -> None:
    cli.served.parent.mkdir(mode=0o700)
    cli.served.write_text(json.dumps({"pid": os.getpid(), "directories": [str(cli.cache_dir)]}))
    assert cli.run("config", "--json").json["settings"]["cache_dir"]["from"] == "default"


def test_a_stale_file_with_a_living_process_id_is_replaced(cli: Cli) -> None:
    """Process ids come round again; the file of a killed daemon may name anybody's."""
    cli.served.parent.mkdir(mode=0o700)
    cli.served.write_text(json.dumps({"pid": os.getpid(), "directories": ["/no/such"]}))
    with cli.serve("--cache-dir", cli.cache_dir, "--cache-size", "100MB") as daemon:
        assert json.loads(cli.served.read_text())["pid"] == daemon.pid


def test_it_waits_for_a_private_engine_that_is_leaving(cli: Cli, data: DataSet) -> None:
    assert cli.cached("warm", data.url("data"), "--cache-size", "100MB").code == 0
    assert (cli.cache_dir / "engine.sock").exists()
    with cli.serve("--cache-dir", cli.cache_dir) as daemon:
        assert cli.run("status", "--json").json["engine_pid"] == daemon.pid


def test_it_does_not_take_a_directory_that_is_used(cli: Cli, s3: SeaweedS3) -> None:
    with ioaccel.connect(cli.cache_dir, "100MB") as cache:
        pid = cache.status()["engine_pid"]
        done = cli.cached("serve")
        assert (done.code, done.out) == (6, "")
        assert f"engine {pid}" in done.complaint
    assert not cli.served.exists()
    wait_for(lambda: gone(pid))


def test_the_runtime_directory_is_made_private(cli: Cli) -> None:
    cli.served.parent.mkdir(mode=0o755)
    with cli.serve("--cache-dir", cli.cache_dir, "--cache-size", "100MB"):
        assert stat.S_IMODE(cli.served.parent.stat().st_mode) == 0o700


def test_a_runtime_directory_by_a_link_is_not_used(cli: Cli) -> None:
    (cli.home / "elsewhere").mkdir()
    cli.served.parent.symlink_to(cli.home / "elsewhere")
    done = cli.cached("serve", "--cache-size", "100MB")
    assert done.code == 6
    assert "does not belong" in done.complaint
    assert list((cli.home / "elsewhere").iterdir()) == []
