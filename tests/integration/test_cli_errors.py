"""Everything that a person may get wrong: one line that says what to do, and an exit code by its cause."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import PROGRAM, Cli
from support.data import DataSet
from support.processes import gone, started, wait_for

from ioaccel.testing.seaweed import SeaweedS3

VERBS_ON_A_CACHE = (["warm", "s3://b/k"], ["du"], ["evict", "s3://b/k"], ["verify"], ["serve"])


@pytest.fixture(scope="module")
def data(s3: SeaweedS3) -> DataSet:
    s3.create_bucket("test-cli-errors")
    return DataSet.fill(s3, "test-cli-errors", [1000] * 10)


@pytest.fixture
def cli(tmp_path: Path, s3: SeaweedS3) -> Cli:
    return Cli(tmp_path, s3)


# ---- the store ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "code", "says"),
    [
        ("nosuchscheme://bucket/key", 2, "nosuchscheme"),
        ("s3://", 2, "names no"),
        ("s3://no bucket/key", 2, "not the name of a bucket"),
        ("s3://no-such-bucket", 3, "bucket does not exist"),
        ("s3://no-such-bucket/key", 3, "bucket"),
        ("s3://test-cli-errors/no/such/key", 3, "nothing is stored there"),
        ("/no/such/file", 3, "nothing is stored there"),
        ("ioaccel://bucket/key", 2, "the cache itself"),
    ],
)
def test_what_cannot_be_warmed(cli: Cli, data: DataSet, url: str, code: int, says: str) -> None:
    done = cli.cached("warm", url, "--cache-size", "100MB")
    assert (done.code, done.out) == (code, "")
    assert says in done.complaint
    assert url in done.complaint or code == 2


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "check secret"),
        ({"AWS_ACCESS_KEY_ID": "wrong"}, "check key"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SKIP_SIGNATURE": "true"}, "allow these credentials"),
    ],
)
def test_wrong_credentials(cli: Cli, data: DataSet, given: dict[str, str], says: str) -> None:
    done = cli.cached("warm", data.url("data"), "--cache-size", "100MB", **given)
    assert (done.code, done.out) == (4, "")
    assert says in done.complaint


@pytest.mark.slow
def test_an_endpoint_that_nobody_listens_at(cli: Cli, data: DataSet) -> None:
    """The listing is tried five times in 9 seconds, and a person sees that it goes on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{probe.getsockname()[1]}"
        given = ("warm", data.url("data"), "--cache-dir", cli.cache_dir, "--cache-size", "100MB")
        done = cli.process(*given, AWS_ENDPOINT_URL=endpoint)
    assert (done.code, done.out) == (5, "")
    assert f"the connection to {endpoint} failed (Connection refused); check" in done.complaint
    assert re.match(rf"Listing {data.url('data')}: \d+\.\d s\n", done.err), done.err
    assert done.seconds < 30


@pytest.mark.parametrize(
    ("option", "says"),
    [("nonsense", "KEY=VALUE"), ("secrte=x", "did you mean 'secret'?"), ("key=x", "both key and secret")],
)
def test_options_that_make_no_sense(cli: Cli, data: DataSet, option: str, says: str) -> None:
    done = cli.cached("warm", data.url("data"), "-o", option)
    assert (done.code, done.out) == (2, "")
    assert says in done.complaint


def test_warm_what(cli: Cli) -> None:
    for arguments in ([], ["s3://b/k", "-f", "list"], ["-f", "no-such-list"]):
        done = cli.cached("warm", *arguments, "--cache-size", "100MB")
        assert (done.code, done.out) == (2, "")
        assert done.complaint


# ---- the cache ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "size"),
    [
        *((["warm", "s3://b/k"], size) for size in ("-1", "lots", "0", "10XB", "", "1e30", "999PB")),
        (["serve"], "-1"),
        (["config"], "lots"),
    ],
)
def test_a_size_that_makes_no_sense(cli: Cli, verb: list[str], size: str) -> None:
    done = cli.cached(*verb, f"--cache-size={size}")
    assert (done.code, done.out) == (2, "")
    assert "cache_size" in done.complaint
    assert not cli.cache_dir.exists()


def test_a_configuration_that_makes_no_sense(cli: Cli) -> None:
    for text, says in (
        (
            "cache_dri = 1",
            "no setting 'cache_dri'; did you mean 'cache_dir'? The settings are cache_dir, ",
        ),
        ("cache_dir = 1", "Expected `str"),
        ("cache_dir = ", "Invalid value"),
        ("cache_size = 'ten'", "not 'ten'"),
        ("max_age = -1", "not -1"),
    ):
        (cli.home / "bad.toml").write_text(text)
        done = cli.run("config", "--config", "bad.toml")
        assert (done.code, done.out) == (2, "")
        assert str(cli.home / "bad.toml") in done.complaint
        assert says in done.complaint
    for name in ("missing.toml", "."):
        done = cli.process("config", "--config", name)
        assert (done.code, done.complaint) == (2, f"--config {name}: there is no such file")


@pytest.mark.parametrize("verb", VERBS_ON_A_CACHE)
def test_a_cache_directory_that_is_a_file(cli: Cli, verb: list[str]) -> None:
    cli.cache_dir.write_text("mine")
    done = cli.cached(*verb)
    assert (done.code, done.out) == (6, "")
    assert "not a directory" in done.complaint
    assert cli.cache_dir.read_text() == "mine"


@pytest.fixture
def read_only(cli: Cli) -> Iterator[Path]:
    """A directory on a read-only file system; without root, one without write permission."""
    cli.cache_dir.mkdir()
    if os.getuid() == 0:
        mount = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "none", str(cli.cache_dir)]
        if not shutil.which("mount") or subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("this root may not mount anything")
    else:
        cli.cache_dir.chmod(0o500)
    yield cli.cache_dir
    if os.getuid() == 0:
        subprocess.run(["umount", str(cli.cache_dir)], check=True)


@pytest.mark.parametrize("verb", [["warm", "s3://b/k"], ["serve"]])
def test_a_read_only_cache_directory(cli: Cli, read_only: Path, verb: list[str]) -> None:
    done = cli.cached(*verb)
    assert (done.code, done.out) == (6, "")
    assert str(read_only) in done.complaint
    assert "read-only" in done.complaint or "may not write" in done.complaint


def test_status_of_a_read_only_cache_directory(cli: Cli, read_only: Path) -> None:
    for directory in (read_only, read_only / "below"):
        done = cli.run("status", "--cache-dir", directory)
        assert (done.code, done.err) == (1, "")
        assert done.out.startswith("no engine is running; none can be started here\n")
        assert "read-only" in done.out or "may not write" in done.out


def test_doctor_on_a_read_only_cache_directory(cli: Cli, read_only: Path) -> None:
    done = cli.cached("doctor")
    assert done.code == 1
    assert "problem" in done.out
    assert done.err == ""


def test_a_cache_of_a_newer_format(cli: Cli) -> None:
    """A superblock that names a format of the future: nothing in the cache is touched."""
    with cli.serve("--cache-dir", cli.cache_dir, "--cache-size", "1MB"):
        pass
    path = cli.cache_dir / "shard.data"
    content = bytearray(path.read_bytes())
    assert content[:8] == b"IOASHRD1"
    content[8:12] = (1000).to_bytes(4, "little")
    path.write_bytes(content)
    for verb in VERBS_ON_A_CACHE:
        done = cli.cached(*verb)
        assert (done.code, done.out) == (6, "")
        assert "newer ioaccel" in done.complaint
    for verb in (["status"], ["doctor"]):  # for them that is what they found
        done = cli.cached(*verb)
        assert (done.code, done.err) == (1, "")
        assert "newer ioaccel" in done.out
    assert path.read_bytes() == content


def test_directories_that_another_engine_serves_with_others(cli: Cli, data: DataSet) -> None:
    a, b = cli.home / "a", cli.home / "b"
    with cli.serve("--cache-dir", a, "--cache-dir", b, "--cache-size", "100MB") as daemon:
        for given in ([a], [b], [b, cli.home / "c"]):
            done = cli.run("warm", data.url("data"), *(x for d in given for x in ("--cache-dir", d)))
            assert (done.code, done.out) == (6, "")
            assert str(daemon.pid) in done.complaint
            assert str(b) in done.complaint
        assert cli.run("warm", data.url("data"), "--cache-dir", b, "--cache-dir", a).code == 0


@pytest.mark.parametrize("verb", [*VERBS_ON_A_CACHE[1:4], ["warm", "--check", "s3://b/k"]])
def test_no_cache_is_made_to_look_into(cli: Cli, verb: list[str]) -> None:
    done = cli.cached(*verb)
    assert (done.code, done.out) == (6, "")
    assert "there is no cache" in done.complaint
    assert not cli.cache_dir.exists()


def test_a_runtime_directory_that_cannot_be_used(cli: Cli) -> None:
    (cli.runtime / "ioaccel").write_text("mine")
    done = cli.cached("serve", "--cache-size", "1MB")
    assert (done.code, done.out) == (6, "")
    assert "XDG_RUNTIME_DIR" in done.complaint


# ---- ends ---------------------------------------------------------------------------------------


def test_an_interrupt(cli: Cli, data: DataSet) -> None:
    """Ctrl-C while the store does not answer: at once, without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        command = [PROGRAM, "warm", data.url("data"), "--cache-dir", cli.cache_dir, "--cache-size", "100MB"]
        environ = cli.environ | {"AWS_ENDPOINT_URL": endpoint}
        with started(command, env=environ, stderr=subprocess.PIPE) as process:
            connection, _ = silent.accept()
            engine = json.loads((cli.cache_dir / "engine.lock").read_text())["pid"]
            begun = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=20)
            connection.close()
    assert process.returncode == 130
    assert said.splitlines()[-1] == "ioaccel: interrupted"
    assert "Traceback" not in said
    assert time.monotonic() - begun < 5
    # Its engine leaves as after any client, though its listing would go on until it has failed.
    wait_for(lambda: gone(engine))


def test_a_reader_that_has_seen_enough(cli: Cli) -> None:
    """``ioaccel config | head -0`` is no error to tell of."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [PROGRAM, "config"], env=cli.environ, check=False, stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
