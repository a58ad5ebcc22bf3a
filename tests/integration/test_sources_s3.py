"""An S3 bucket: what it says when something is missing, wrong, changed or odd."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ioaccel.errors import (
    AccessDeniedError,
    EngineError,
    IOAccelError,
    ObjectNotFoundError,
    UnsupportedURLError,
)
from ioaccel.sources import Source, open_source, resolve
from ioaccel.sources.stores import with_bucket
from ioaccel.testing.countproxy import CountingProxy
from ioaccel.testing.s3client import S3ClientError
from ioaccel.testing.seaweed import GRPC_OFFSET, SeaweedS3


@pytest.fixture
def source(s3: SeaweedS3, bucket: str) -> Source:
    return open_source(resolve("s3", s3.storage_options), bucket)


def every_read(source: Source, key: str) -> list[Callable[[], object]]:
    return [
        lambda: source.stat(key),
        lambda: source.get(key, 0, 10),
        lambda: asyncio.run(source.astat(key)),
        lambda: asyncio.run(source.aget(key, 0, 10)),
    ]


def test_a_missing_key_and_a_missing_bucket_read_differently(s3: SeaweedS3, source: Source) -> None:
    with pytest.raises(ObjectNotFoundError, match="does not exist; check the key"):
        source.get("nope", 0, 1)
    nowhere = open_source(resolve("s3", s3.storage_options), "no-such-bucket")
    with pytest.raises(ObjectNotFoundError, match="the bucket does not exist at this endpoint"):
        nowhere.get("nope", 0, 1)
    with pytest.raises(ObjectNotFoundError, match="the bucket or the key does not exist"):
        nowhere.stat("nope")
    with pytest.raises(ObjectNotFoundError, match="the bucket does not exist"):
        list(nowhere.list("x"))
    with pytest.raises(ObjectNotFoundError, match="the bucket does not exist"):
        nowhere.list_dir("x")


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        ({"key": "nobody"}, "check key"),
        ({"secret": "wrong"}, "check secret"),
        ({"anon": True}, "storage_options"),
    ],
)
def test_wrong_credentials(s3: SeaweedS3, bucket: str, wrong: dict[str, object], advice: str) -> None:
    s3.put(bucket, "x", b"x")
    source = open_source(resolve("s3", {**s3.storage_options, **wrong}), bucket)
    for read in every_read(source, "x"):
        with pytest.raises(AccessDeniedError, match=f"s3://{bucket}/x: access denied"):
            read()
    with pytest.raises(AccessDeniedError, match=advice):
        source.get("x", 0, 1)
    with pytest.raises(AccessDeniedError, match="access denied"):
        list(source.list(""))
    assert issubclass(AccessDeniedError, PermissionError)


def test_no_credentials_at_all(s3: SeaweedS3, bucket: str) -> None:
    # Nothing listens on port 9, so the node's own credentials are not to be had.
    options = {"endpoint_url": s3.endpoint, "metadata_endpoint": "http://127.0.0.1:9", "connect_timeout": 1}
    source = open_source(resolve("s3", options), bucket)
    with pytest.raises(AccessDeniedError, match=r"no credentials .*pass key and secret, or anon=True"):
        source.get("x", 0, 1)


def test_the_environment_of_the_reader_does_not_leak_in(
    s3: SeaweedS3, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put(bucket, "x", b"x")
    spec = resolve("s3", s3.storage_options)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "other")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    assert open_source(spec, bucket).stat("x").size == 1


def test_the_environment_of_the_client_counts(
    s3: SeaweedS3, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put(bucket, "x", b"x")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    assert open_source(resolve("s3"), bucket).stat("x").size == 1


def test_a_long_listing(s3: SeaweedS3, bucket: str, source: Source) -> None:
    keys = [f"long/{number:05d}" for number in range(1100)]
    s3.put_many(bucket, ((key, key.encode()) for key in keys))
    pages = list(source.list("long"))
    assert [len(page) for page in pages] == [1000, 100]
    assert [info.key for page in pages for info in page] == keys
    info = source.stat(keys[7])
    assert info == pages[0][7]
    assert info.version.startswith('"')
    rest = [info.key for page in source.list("long", after=keys[700]) for info in page]
    assert rest == keys[701:]


@pytest.mark.parametrize("key", ["x//y", "tail/", "/lead", "a/../b", "./a", "a\nb", "..", ""])
def test_keys_that_obstore_would_rewrite_are_refused(source: Source, key: str) -> None:
    for read in every_read(source, key):
        with pytest.raises(UnsupportedURLError, match="copy the object to a plain key"):
            read()


def test_directory_markers(s3: SeaweedS3, bucket: str, source: Source) -> None:
    for marker in ("dir/", "dir/sub/"):
        s3.put(bucket, marker, b"")
    s3.put(bucket, "dir/sub/x", b"x")
    below = [info.key for page in source.list("dir") for info in page]
    assert sorted(below) == ["dir/sub", "dir/sub/x"]  # the first is a marker that obstore cannot name
    assert source.list_dir("dir") == (["dir/sub"], [])
    assert source.list_dir("dir/sub")[1] == [source.stat("dir/sub/x")]


def test_one_request_for_one_read(s3: SeaweedS3, bucket: str) -> None:
    s3.put(bucket, "x", b"12345")
    s3.put(bucket, "empty", b"")
    with CountingProxy(s3.endpoint) as proxy:
        source = open_source(resolve("s3", {**s3.storage_options, "endpoint_url": proxy.endpoint}), bucket)
        source.get("x", 0, 100)
        source.get("x", 1, 3)
        counts = proxy.reset()
        assert (counts.requests, counts.bytes) == ({"GET": 2}, {"GET": 7})
        source.stat("x")
        assert proxy.reset().requests == {"HEAD": 1}
        source.get("empty", 0, 100)
        assert proxy.reset().requests == {"GET": 1, "HEAD": 1}
        list(source.list(""))
        assert proxy.reset().requests == {"GET": 1}


def test_virtual_hosts() -> None:
    assert with_bucket("https://s3.example.com", "b") == "https://b.s3.example.com"
    assert with_bucket("http://b.s3.example.com:8/x", "b") == "http://b.s3.example.com:8/x"


@pytest.mark.filterwarnings(
    "ignore:.*fork:DeprecationWarning"
)  # of Python 3.12: it may hang; that is the point
def test_a_forked_process_gets_an_error_and_does_not_hang(s3: SeaweedS3, bucket: str, source: Source) -> None:
    s3.put(bucket, "x", b"x")
    source.stat("x")
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        caught = 0
        for read in (
            lambda: source.stat("x"),
            lambda: open_source(resolve("s3", s3.storage_options), bucket),
        ):
            try:
                read()
            except EngineError as error:
                caught += "spawn or forkserver" in str(error)
        os._exit(0 if caught == 2 else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_every_error_says_where(source: Source) -> None:
    with pytest.raises(IOAccelError) as caught:
        source.get("no/such key", 5, 10)
    assert caught.value.url == source.url("no/such key")
    assert caught.value.range == (5, 10)


class TestServer:
    """The test server itself."""

    def test_client_errors(self, s3: SeaweedS3, bucket: str) -> None:
        with pytest.raises(S3ClientError) as caught:
            s3.create_bucket(bucket)
        assert caught.value.status == 409
        s3.delete(bucket, "never was")

    def test_two_servers_side_by_side(self, s3: SeaweedS3) -> None:
        with SeaweedS3() as other:
            assert other.endpoint != s3.endpoint
            pid = other.pid
            assert pid is not None
            os.kill(pid, 0)
            directory = other.directory
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert not directory.exists()

    def test_a_directory_keeps_its_objects(self, tmp_path: Path) -> None:
        with SeaweedS3(tmp_path) as server:
            server.create_bucket("kept")
            server.put("kept", "x", b"12345")
        with SeaweedS3(tmp_path) as server:
            source = open_source(resolve("s3", server.storage_options), "kept")
            assert bytes(source.get("x", 0, 10).data) == b"12345"

    def test_it_dies_with_the_process_that_started_it(self, tmp_path: Path) -> None:
        script = (
            "import os, sys; from ioaccel.testing.seaweed import GRPC_OFFSET, SeaweedS3\n"
            "with SeaweedS3(sys.argv[1]) as server:\n"
            "    print(server.pid, *server._ports.values(), flush=True); os.kill(os.getpid(), 9)"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True, check=False
        )
        pid, *ports = done.stdout.split()
        deadline = time.monotonic() + 10
        while Path(f"/proc/{pid}/exe").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not Path(f"/proc/{pid}/exe").exists()
        for port in ports:  # nobody was left to remove them
            for path in Path("/tmp").glob(f"seaweedfs-*-{int(port) + GRPC_OFFSET}.sock"):
                path.unlink()

    def test_a_server_that_cannot_start_says_why(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ioaccel.testing.seaweed.find_weed", lambda: "/bin/false")
        with pytest.raises(RuntimeError, match="did not start"), SeaweedS3():
            pass
