"""A store that fails: which failures are worth another attempt, and which are final."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator

import pytest

from ioaccel.errors import ConfigError, ObjectChangedError, StoreError, UnsupportedURLError
from ioaccel.sources import RetryableError, Source, open_source, resolve
from ioaccel.testing.countproxy import CountingProxy, Fault, Request
from ioaccel.testing.seaweed import SeaweedS3

DATA = bytes(range(256)) * 4000


@pytest.fixture
def proxy(s3: SeaweedS3) -> Iterator[CountingProxy]:
    with CountingProxy(s3.endpoint) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def bucket(s3: SeaweedS3) -> str:  # one for all: the first object of a bucket takes 0.2 s
    s3.create_bucket("faults")
    return "faults"


@pytest.fixture
def source(s3: SeaweedS3, proxy: CountingProxy, bucket: str) -> Source:
    s3.put(bucket, "x", DATA)
    options = {**s3.storage_options, "endpoint_url": proxy.endpoint, "read_timeout": 0.5}
    return open_source(resolve("s3", options), bucket)


def failure(source: Source, stop: int = 10**9) -> RetryableError:
    """The error of a read, which both ways of reading must agree on."""
    with pytest.raises(RetryableError) as caught:
        source.get("x", 0, stop)
    with pytest.raises(RetryableError) as again:
        asyncio.run(source.aget("x", 0, stop))
    assert (again.value.throttled, again.value.timed_out) == (caught.value.throttled, caught.value.timed_out)
    assert source.url("x") in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("status", "body", "throttled"),
    [
        (503, b"", True),
        (429, b"", True),
        (503, b"<Error><Code>SlowDown</Code></Error>", True),
        (500, b"", False),
        (500, b"<Error><Code>SlowDown</Code></Error>", True),
        (502, b"", False),
        (504, b"", False),
        (400, b"<Error><Code>RequestTimeout</Code></Error>", False),
    ],
)
def test_failures_that_pass(
    proxy: CountingProxy, source: Source, status: int, body: bytes, throttled: bool
) -> None:
    proxy.hook = lambda request: Fault(status=status, body=body)
    assert failure(source).throttled is throttled
    assert str(status) in str(failure(source))
    if status != 400:  # an answer to HEAD has no body to say more
        with pytest.raises(RetryableError):
            source.stat("x")
    with pytest.raises(RetryableError):
        list(source.list(""))
    proxy.hook = None
    assert bytes(source.get("x", 0, 10**9).data) == DATA


def test_nothing_is_retried_here(proxy: CountingProxy, source: Source) -> None:
    proxy.hook = lambda request: Fault(status=503)
    with pytest.raises(RetryableError):
        source.get("x", 0, 1)
    assert proxy.reset().requests == {"GET": 1}


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (400, b"<Error><Code>ExpiredToken</Code></Error>", PermissionError, "has expired; renew"),
        (403, b"<Error><Code>RequestTimeTooSkewed</Code></Error>", PermissionError, "clock of this node"),
        (401, b"", PermissionError, "access denied"),
        (400, b"<Error><Code>InvalidArgument</Code></Error>", StoreError, "the store refused"),
        (501, b"", StoreError, "the store refused"),
        (301, b"", ConfigError, "another region; pass region"),
    ],
)
def test_failures_that_stay(
    proxy: CountingProxy, source: Source, status: int, body: bytes, kind: type[Exception], words: str
) -> None:
    proxy.hook = lambda request: Fault(status=status, body=body)
    with pytest.raises(kind, match=words):
        source.get("x", 0, 1)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("cut_after", [-1, 0, 1, 100_000, len(DATA) - 1])
def test_a_body_that_breaks_off(proxy: CountingProxy, source: Source, cut_after: int, reset: bool) -> None:
    proxy.hook = lambda request: Fault(cut_after=cut_after, reset=reset)
    assert not failure(source).throttled
    proxy.hook = None
    assert bytes(source.get("x", 0, 10**9).data) == DATA


def test_a_silent_store(proxy: CountingProxy, source: Source) -> None:
    proxy.hook = lambda request: Fault(delay=1.0)
    began = time.monotonic()
    assert failure(source).timed_out
    assert time.monotonic() - began < 1.9


def test_a_store_that_is_not_there(s3: SeaweedS3, bucket: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    source = open_source(resolve("s3", {**s3.storage_options, "endpoint_url": endpoint}), bucket)
    assert f"to {endpoint} failed (Connection refused)" in str(failure(source))
    nowhere = {**s3.storage_options, "endpoint_url": "http://store.invalid"}
    assert "http://store.invalid failed (failed to lookup" in str(
        failure(open_source(resolve("s3", nowhere), bucket))
    )


def test_an_object_replaced_between_two_reads(
    s3: SeaweedS3, proxy: CountingProxy, source: Source, bucket: str
) -> None:
    first = source.get("x", 0, 1000)

    def replace(request: Request) -> None:
        s3.put(bucket, "x", DATA[::-1])

    proxy.hook = replace
    with pytest.raises(ObjectChangedError, match="was replaced"):
        source.get("x", 1000, 2000, first.info.version)


def test_a_store_that_ignores_conditions(source: Source) -> None:
    # Not a strong etag, so it is not sent, and the answer's version must be compared.
    with pytest.raises(ObjectChangedError):
        source.get("x", 0, 1, "123-456")
    with pytest.raises(ObjectChangedError):
        source.get("x", 0, 1, 'W/"weak"')


def test_a_server_without_ranges(proxy: CountingProxy, source: Source) -> None:
    etag = source.stat("x").version

    def whole(request: Request) -> Fault | None:
        return Fault(
            status=200, body=DATA, headers={"ETag": etag, "Last-Modified": "Mon, 23 Nov 2026 07:00:00 GMT"}
        )

    proxy.hook = whole
    assert bytes(source.get("x", 0, len(DATA)).data) == DATA
    assert bytes(asyncio.run(source.aget("x", 0, len(DATA))).data) == DATA
    proxy.reset()
    for start, stop in ((0, 10), (10, len(DATA))):
        with pytest.raises(UnsupportedURLError, match="does not serve ranges"):
            source.get("x", start, stop)


def test_an_answer_to_another_question(proxy: CountingProxy, source: Source) -> None:
    headers = {
        "ETag": '"x"',
        "Last-Modified": "Mon, 23 Nov 2026 07:00:00 GMT",
        "Content-Range": "bytes 0-4/1024000",
    }
    proxy.hook = lambda request: Fault(status=206, body=b"12345", headers=headers)
    assert "broken answer" in str(failure(source, stop=10))


def test_the_proxy_changes_nothing(s3: SeaweedS3, proxy: CountingProxy, bucket: str, source: Source) -> None:
    from ioaccel.testing.s3client import S3Client

    through = S3Client(proxy.endpoint, s3.key, s3.secret)
    through.put(bucket, "a b%20/é+?#", DATA)
    through.delete(bucket, "x")
    through.close()
    assert proxy.reset().requests == {"PUT": 1, "DELETE": 1}
    assert bytes(source.get("a b%20/é+?#", 0, 10**9).data) == DATA
    assert [info.key for page in source.list("") for info in page] == ["a b%20/é+?#"]
    assert proxy.reset().bytes["GET"] > len(DATA)
